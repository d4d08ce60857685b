"""The configuration: the runbook's YAML and what this program adds to it, checked to the last key."""

from dwcp.config.load import default_files, load_config, parse_overrides
from dwcp.config.model import Config
from dwcp.config.show import changed_keys, dump_config, needs_restart, summary

__all__ = [
    "Config",
    "changed_keys",
    "default_files",
    "dump_config",
    "load_config",
    "needs_restart",
    "parse_overrides",
    "summary",
]
