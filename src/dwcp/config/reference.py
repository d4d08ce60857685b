"""Writes docs/configuration.md: `python -m dwcp.config.reference > docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dwcp.config.fields import shown
from dwcp.config.model import Config
from dwcp.config.show import needs_restart

_HEAD = """# Configuration

Generated from the model by `python -m dwcp.config.reference`; edit `src/dwcp/config/model.py`, not this page.

`dwcp-manager` and `dwcp` read `/etc/dwcp/config.yaml` and then `~/.config/dwcp/config.yaml`, or instead the files given
with `--config`; later files are merged over earlier ones, key by key. An empty file is valid. A variable
`DWCP_TRANSPORT__MAX_STREAMS=64` overrides the files, `--set transport.max_streams=64` overrides both.
`dwcp-manager --config FILE --validate` names every problem with file, line, column, key, what was found and what is
allowed, and exits with 2; `--print-config` prints the effective configuration.

Durations are written `150ms`, `30s`, `5m`, `24h`; sizes `16777216`, `16MiB`, `64KB`; rates `200Mbit/s`, `1Gbps`,
`125MB/s`, and as a bare number bits per second (also for `pacing_rate`, whose runbook table says bytes while its
examples say bits). *live*: taken over on SIGHUP; *restart*: counts from the next start on.
"""


def reference() -> str:
    """The page."""
    lines = [_HEAD, "## Top level", "", *_table(Config, "", only_values=True)]
    for key, field in Config.model_fields.items():
        model, suffix = _section(field.annotation)
        if model is not None:
            lines += ["", f"## {key}{suffix}", "", (model.__doc__ or "").strip(), "", *_table(model, f"{key}{suffix}")]
            for inner, inner_field in model.model_fields.items():
                inner_model, inner_suffix = _section(inner_field.annotation)
                if inner_model is not None:
                    path = f"{key}.{inner}{inner_suffix}"
                    lines += [
                        "",
                        f"### {path}",
                        "",
                        (inner_model.__doc__ or "").strip(),
                        "",
                        *_table(inner_model, path),
                    ]
    return "\n".join(lines) + "\n"


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    suffix = ""
    if get_origin(annotation) is dict:
        annotation, suffix = get_args(annotation)[1], ".NAME"
    elif get_origin(annotation) is list:
        annotation, suffix = get_args(annotation)[0], "[]"
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return (annotation if is_model else None), suffix


def _table(model: type[BaseModel], path: str, *, only_values: bool = False) -> Iterator[str]:
    yield "| key | default | allowed | applies | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for key, field in model.model_fields.items():
        if _section(field.annotation)[0] is not None:
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = extra.get("default") or ("required" if field.default is PydanticUndefined else field.default)
        value = shown(default, str(extra.get("unit", "")))
        text = value if isinstance(value, str) else "" if value is None else str(value)
        text = text.lower() if isinstance(value, bool) else text
        applies = "restart" if needs_restart(f"{path}.{key}" if path else key) else "live"
        yield f"| `{key}` | {text or 'unset'} | {extra.get('allowed', '')} | {applies} | {field.description} |"


if __name__ == "__main__":
    print(reference(), end="")
