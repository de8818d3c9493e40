#!/usr/bin/env bash
# Runs the properties of everything that parses outside input, and says how many inputs each was given:
# PROPTEST_CASES (100000), and a hundredth of that where an input is a conversation with a running server.
# Arguments go to cargo-nextest.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# Where `make e2e` puts cargo-nextest.
PATH="${XDG_CACHE_HOME:-$HOME/.cache}/hodei-e2e/tools/bin:$PATH"
inputs=${PROPTEST_CASES:-100000}
packages=(hodei-core hodei-proto hodei-kubernetes hodei-worker hodei-server hodei hodei-harness)
arguments=("${packages[@]/#/--package=}" "$@")

run() {
    local chosen=("${arguments[@]}" --filterset "$1") properties
    properties=$(cargo nextest list "${chosen[@]}" --message-format oneline | wc -l)
    PROPTEST_CASES=$2 cargo nextest run --profile fuzz "${chosen[@]}" || return 1
    printf '%d properties with %d inputs each: %d inputs\n' "$properties" "$2" "$((properties * $2))"
}

found=0
run 'binary(outside_input) | test(/outside_input::/)' "$inputs" || found=1
run 'test(/outside_input_slow::/)' "$(((inputs + 99) / 100))" || found=1
exit "$found"
