#!/usr/bin/env bash
# Applies the namespaces, permissions, bounds and settings of Hodei's workers. Running it again is safe.
# Usage: install.sh [kubectl options, as --context NAME]
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
command -v kubectl >/dev/null || { echo "install.sh: kubectl is not installed" >&2; exit 1; }

for manifest in namespace rbac quota network-policy configmap; do
  kubectl "$@" apply -f "$here/$manifest.yaml"
done

control_plane=system:serviceaccount:hodei-system:hodei-control-plane
if ! kubectl "$@" auth can-i create pods -n hodei-jobs-workers --as="$control_plane" >/dev/null; then
  echo "install.sh: $control_plane may not create pods in hodei-jobs-workers" >&2
  exit 1
fi
echo "Hodei's workers can run in the namespace hodei-jobs-workers."
