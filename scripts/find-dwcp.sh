# shellcheck shell=bash
# Sourced by the scripts beside it. `dwcp` runs the one that belongs to this tree, else the installed service's, else the
# one on PATH. DWCP names another.

dwcp() {
  local here found
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  for found in "${DWCP:-}" "$here/../.venv/bin/dwcp" /opt/dwcp/bin/dwcp "$(command -v dwcp-manager || true)"; do
    # the function hides the command of its name; its companion is installed beside it
    [[ $found == */dwcp-manager ]] && found=${found%-manager}
    if [[ -n $found && -x $found ]]; then
      "$found" "$@"
      return
    fi
  done
  echo "dwcp is not installed: 'make run' in the source tree, or see docs/runbook.md; DWCP=/path/to/dwcp names it" >&2
  return 3
}
