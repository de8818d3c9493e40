# Jobs to try a stack with (`make up` first). `just` alone lists them.

hodei := "cargo run --quiet --package hodei --"

_default:
    @just --list

# One job in one pod, its output as it happens
job-k8s-hello:
    {{ hodei }} job run --name hello -- sh -c 'echo "hello from $(hostname)"'

# A job that fails with exit code 3: `just` shows the same code
job-k8s-fail:
    {{ hodei }} job run --name fail -- sh -c 'echo "this one fails" >&2; exit 3'

# A line each second for ten seconds
job-k8s-slow:
    {{ hodei }} job run --name slow -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do echo "$i"; sleep 1; done'

# Four jobs at once, each in a pod of its own
job-k8s-many:
    #!/usr/bin/env bash
    set -euo pipefail
    pids=()
    for number in 1 2 3 4; do
        {{ hodei }} job run --name "many-${number}" -- sh -c "echo job ${number} on \$(hostname)" &
        pids+=("$!")
    done
    for pid in "${pids[@]}"; do wait "${pid}"; done
