"""`python -m dwcp.cli` is `dwcp`."""

from dwcp.cli.main import main

main(prog_name="dwcp")
