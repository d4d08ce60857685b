#!/usr/bin/env bash
# What is wrong with this node? Configuration, state, components, peers. Takes the options of `dwcp doctor` (--json).
set -euo pipefail
# shellcheck source=scripts/find-dwcp.sh
. "$(dirname "$0")/find-dwcp.sh"
dwcp doctor --area configuration --area state --area components --area peers "$@"
