"""The kinds of values that a configuration has. Each carries what is allowed and what it means, so that messages, the
reference and the parser cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dwcp.units import format_duration, format_size, parse_duration, parse_rate, parse_size


class Section(BaseModel):
    """Strict: no guessing of types, no unknown keys, no change after loading."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


def _number_or(parse: Callable[[str], int], what: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"write {what}")
        return value

    return convert


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        return parse_duration(value)
    # defaults are seconds already; a bare number in a file would leave its unit to be guessed
    if isinstance(value, float):
        return value
    raise ValueError("write a duration with its unit, for example 150ms, 30s, 5m or 24h")


Duration = Annotated[float, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_number_or(parse_size, "a number of bytes or a size like 16MiB"))]
Rate = Annotated[int, BeforeValidator(_number_or(parse_rate, "a number of bits per second or a rate like 200Mbit/s"))]


def flag(default: bool, text: str) -> Any:
    return Field(default, description=text, json_schema_extra={"allowed": "true or false"})


def integer(default: int, low: int, high: int, text: str) -> Any:
    return Field(default, ge=low, le=high, description=text, json_schema_extra={"allowed": f"{low} to {high}"})


def number(default: float, low: float, high: float, text: str) -> Any:
    return Field(default, ge=low, le=high, description=text, json_schema_extra={"allowed": f"{low:g} to {high:g}"})


def choice(default: str, text: str, *options: str) -> Any:
    """For a field of a Literal type with these options."""
    return Field(default, description=text, json_schema_extra={"allowed": ", ".join(o or '""' for o in options)})


def string(default: Any, allowed: str, text: str, pattern: str | None = None) -> Any:
    return Field(default, description=text, pattern=pattern, json_schema_extra={"allowed": allowed})


def duration(default: str | None, low: str, high: str, text: str) -> Any:
    first, last = parse_duration(low), parse_duration(high)
    return Field(
        None if default is None else parse_duration(default),
        ge=first,
        le=last,
        description=text,
        json_schema_extra={"allowed": f"{low} to {high}", "unit": "duration"},
    )


def size(default: int, low: int, high: int, text: str) -> Any:
    allowed = f"{format_size(low)} to {format_size(high)}".replace(".0 ", " ")
    return Field(default, ge=low, le=high, description=text, json_schema_extra={"allowed": allowed, "unit": "size"})


def rate(default: int, low: int, high: int, text: str, allowed: str) -> Any:
    return Field(default, ge=low, le=high, description=text, json_schema_extra={"allowed": allowed, "unit": "rate"})


def shown(value: Any, unit: str | None) -> Any:
    """A value as it would be written in a file."""
    if unit == "duration" and isinstance(value, float):
        return format_duration(value)
    return value
