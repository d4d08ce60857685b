#!/usr/bin/env bash
# What does the manager on this machine do? Takes the options of `dwcp status` (--json).
set -euo pipefail
# shellcheck source=scripts/find-dwcp.sh
. "$(dirname "$0")/find-dwcp.sh"
dwcp status "$@"
