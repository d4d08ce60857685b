"""What both programs of the archive begin with: which of them it is, its name says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def run() -> None:
    arguments = sys.argv[1:]
    if len(arguments) > 1 and arguments[0] == "-m" and arguments[1].startswith("dwcp."):
        # `dwcp lab` starts managers by `sys.executable -m dwcp.manager.daemon`, and here that is this program
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif Path(sys.argv[0]).name == "dwcp-manager":
        from dwcp.manager.daemon import main as manager

        manager()
    else:
        from dwcp.cli.main import main

        main()


if __name__ == "__main__":
    run()
