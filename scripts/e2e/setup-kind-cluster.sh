#!/usr/bin/env bash
# Brings up the Kind cluster of the end-to-end tests, or finds it up. Arguments go to `hodei-e2e up`.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
exec cargo run --quiet -p hodei-harness --bin hodei-e2e -- up "$@"
