#!/usr/bin/env bash
# Takes down what the end-to-end tests left standing. Arguments go to `hodei-e2e down`.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
exec cargo run --quiet -p hodei-harness --bin hodei-e2e -- down "$@"
