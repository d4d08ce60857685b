"""From files, environment and flags to a Config, or to a list of everything that is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dwcp.config import yaml_reader
from dwcp.config.fields import shown
from dwcp.config.model import Config
from dwcp.config.yaml_reader import KeyPath
from dwcp.errors import ConfigError

PREFIX = "DWCP_"
SEPARATOR = "__"

Places = dict[KeyPath, str]
"""Where each key was given, as it stands before a message: FILE:LINE:COL, a variable, or a flag."""


def default_files(environ: Mapping[str, str]) -> list[Path]:
    """Of /etc/dwcp/config.yaml and $XDG_CONFIG_HOME/dwcp/config.yaml those that exist; the later one has the say."""
    user = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = (Path("/etc/dwcp/config.yaml"), user / "dwcp" / "config.yaml")
    return [path for path in candidates if path.exists()]


def load_config(
    files: Sequence[Path], environ: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
) -> Config:
    """Files are merged in order, DWCP_SECTION__KEY of `environ` overrides them, `overrides` (dotted keys) all.

    Raises ConfigError with one line for each problem, all of them.
    """
    values: dict[str, Any] = {}
    places: Places = {}
    problems: list[str] = []
    for file in files:
        try:
            document = yaml_reader.read(file)
        except ConfigError as error:
            problems += error.problems
            continue
        values = _merged(values, document.values)
        places.update({path: f"{document.file}:{line}:{col}" for path, (line, col) in document.places.items()})
    for variable, text in sorted((environ or {}).items()):
        if variable.startswith(PREFIX) and SEPARATOR in variable:
            path = tuple(variable.removeprefix(PREFIX).lower().split(SEPARATOR))
            values = _merged(values, _nested(path, yaml_reader.scalar(text)))
            places[path] = f"environment {variable}"
    for key, text in (overrides or {}).items():
        path = tuple(key.split("."))
        values = _merged(values, _nested(path, yaml_reader.scalar(text)))
        places[path] = f"--set {key}"
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += sorted((_line(details, places) for details in error.errors()), key=_in_reading_order)
        raise ConfigError(problems) from error
    if problems:
        raise ConfigError(problems)
    return config


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` flags as a mapping. Raises ConfigError."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ConfigError([f"--set {text}: write KEY=VALUE, for example transport.max_streams=64" for text in wrong])
    return dict(text.split("=", 1) for text in texts)


def _in_reading_order(line: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", line)]


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _nested(path: KeyPath, value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def _line(details: ErrorDetails, places: Places) -> str:
    path = tuple(str(part) for part in details["loc"] if part != "[key]")
    where = _where(path, places)
    what = ".".join(path) or "configuration"
    return f"{where}: {what}: {_reason(details, path)}" if where else f"{what}: {_reason(details, path)}"


def _where(path: KeyPath, places: Places) -> str:
    """Of the key itself, or of the nearest one above it that somebody wrote."""
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            return places[path[:end]]
    return ""


def _reason(details: ErrorDetails, path: KeyPath) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        known = _keys_at(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key{hint} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"is missing; allowed: {_allowed(path)}"
    message = details.get("ctx", {}).get("error")
    found = f"found {_short(details['input'])}"
    allowed = _allowed(path)
    if kind == "value_error" and message is not None:
        text = str(message)
        return text if isinstance(details["input"], dict | BaseModel) else f"{found}; {text}" + _also(allowed)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{found}; a section of keys belongs here"
    if isinstance(details["input"], str) and kind.endswith("_type"):
        return f"{found}, which is text; write it without quotes" + _also(allowed)
    return f"{found}" + _also(allowed or details["msg"])


def _also(allowed: str) -> str:
    return f"; allowed: {allowed}" if allowed else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the keys below `path`."""
    model: type[BaseModel] | None = Config
    skip_name = False
    for key in path:
        if skip_name:
            skip_name = False
            continue
        field = model.model_fields.get(key) if model else None
        if field is None:
            return None
        annotation = field.annotation
        if get_origin(annotation) in (dict, list):
            annotation, skip_name = get_args(annotation)[-1], True
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return model


def _keys_at(path: KeyPath) -> list[str]:
    model = _section_at(path)
    return list(model.model_fields) if model else []


def _allowed(path: KeyPath) -> str:
    model = _section_at(path[:-1]) if path else None
    field = model.model_fields.get(path[-1]) if model and path else None
    extra = field.json_schema_extra if field else None
    return str(extra.get("allowed", "")) if isinstance(extra, dict) else ""


def as_written(model: BaseModel) -> dict[str, Any]:
    """A section as it would stand in a file: durations with units."""
    result: dict[str, Any] = {}
    for key, field in type(model).model_fields.items():
        value = getattr(model, key)
        extra = field.json_schema_extra
        unit = str(extra.get("unit", "")) if isinstance(extra, dict) else None
        if isinstance(value, BaseModel):
            result[key] = as_written(value)
        elif isinstance(value, dict):
            result[key] = {name: as_written(entry) for name, entry in value.items()}
        elif isinstance(value, list):
            result[key] = [as_written(entry) if isinstance(entry, BaseModel) else entry for entry in value]
        else:
            result[key] = shown(value, unit)
    return result
