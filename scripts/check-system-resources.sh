#!/usr/bin/env bash
# Is this machine fit for a node? Cores, memory, disk, kernel, ports, RDMA. Takes the options of `dwcp doctor` (--json).
set -euo pipefail
# shellcheck source=scripts/find-dwcp.sh
. "$(dirname "$0")/find-dwcp.sh"
dwcp doctor --area machine --area disk --area kernel --area ports --area rdma "$@"
