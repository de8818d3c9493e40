# One command for each thing a person does; CI runs the same ones. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
E2E = $(CARGO) run --quiet --package hodei-harness --bin hodei-e2e --
# Arguments for the harness, as in: make e2e ARGS='--layer infra --keep-on-failure'
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  \033[1mmake %-17s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: e2e
e2e: ## Engine, Kind cluster, images, Postgres, server; every suite on the real provider; report; clean-up
	$(E2E) run $(ARGS)

.PHONY: e2e-extended
e2e-extended: ## Core and extended cases on a cluster of two nodes that enforces network policies
	$(E2E) run --nodes 2 --features network-policy --profile all $(ARGS)

.PHONY: test
test: ## Every test that needs no cluster
	$(E2E) tools postgres
	$(CARGO) test --workspace --quiet

.PHONY: report-screenshot
report-screenshot: ## The page of a report in a real browser, at a desk's width and a telephone's, light and dark
	$(E2E) tools browser
	$(CARGO) test --package hodei-harness --test report_page -- --ignored
	@echo 'target/tmp/report-page/*.png'

.PHONY: fuzz
fuzz: ## Properties of everything that parses outside input, PROPTEST_CASES (100000) inputs each
	$(E2E) tools postgres
	scripts/fuzz.sh $(ARGS)

.PHONY: lint
lint: ## Formatting, clippy with warnings as errors, documentation, shell scripts
	$(E2E) tools shellcheck
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	shellcheck $$(git ls-files '*.sh') .ci/run

.PHONY: selftest
selftest: ## Break the promise of each core case, in a copy, and see each case go red for it
	$(E2E) selftest $(ARGS)

.PHONY: bench
bench: ## Compare a Hodei job with a bare pod of the same image, in one run on one cluster
	$(E2E) bench $(ARGS)

.PHONY: docs
docs: ## API documentation of all crates, in target/doc; docs/conformance.md from the catalogue
	$(CARGO) doc --workspace --no-deps --quiet
	$(E2E) list --output markdown > target/conformance.md
	cp target/conformance.md docs/conformance.md
	@echo 'target/doc/hodei_core/index.html'

.PHONY: doctor
doctor: ## What is there, what is missing, and the fix for each
	$(E2E) doctor $(ARGS)

.PHONY: up
up: ## A stack for hands-on use: cluster, Postgres, server, provider; `hodei` finds it by itself
	$(E2E) up --stack $(ARGS)

.PHONY: down
down: ## Remove what `make up` and `make e2e` left: cluster, containers, server, context
	$(E2E) down $(ARGS)

.PHONY: reap
reap: ## Remove what killed runs left, by their journals
	$(E2E) reap $(ARGS)

.PHONY: pristine
pristine: ## Undo the bootstrap too: engine, images, tools and caches that this tool brought
	$(E2E) pristine $(ARGS)

.PHONY: clean
clean: ## Remove build output and reports
	$(CARGO) clean
	rm -rf hodei-e2e-report
