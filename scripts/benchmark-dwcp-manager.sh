#!/usr/bin/env bash
# How fast are two nodes on this machine, beside what is expected? Takes the options of `dwcp bench` (--json).
set -euo pipefail
# shellcheck source=scripts/find-dwcp.sh
. "$(dirname "$0")/find-dwcp.sh"
dwcp bench "$@"
