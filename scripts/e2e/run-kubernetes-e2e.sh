#!/usr/bin/env bash
# Runs the cases of the Kubernetes provider and writes a verdict. Arguments go to `hodei-e2e run`.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
exec cargo run --quiet -p hodei-harness --bin hodei-e2e -- run "$@"
