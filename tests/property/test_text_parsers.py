"""Text that people write: units and YAML are read, or refused by the one error that is meant for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp import units
from dwcp.config import load_config, yaml_reader
from dwcp.config.model import Config
from dwcp.errors import ConfigError

numberish = st.text(alphabet="0123456789.kKmMgGiIbBpPsShdnuµ/ \n\u212a\u017f\u0661-+_eE", max_size=12)


@settings(max_examples=300, deadline=None)
@given(numberish | st.text(max_size=12) | st.integers(1, 600).map(lambda digits: "9" * digits + "GiB"))
def test_a_unit_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (units.parse_duration, units.parse_size, units.parse_rate):
        for given_text in (text, text + "s", text + "bps"):
            try:
                value = parse(given_text)
            except ValueError:
                continue
            assert 0 <= value < float("inf")


@given(st.integers(0, 10**9).map(lambda microseconds: microseconds / 1000))
def test_durations_come_back(seconds: float) -> None:
    assert units.parse_duration(units.format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


TOKENS = ["&a ", "*a", "<<", ": ", "- ", "\n  ", "---\n", "...\n", "!!python/object:x ", "0x_", "0b_", "1_0", "1.0e999"]
ODDITIES = ["99999999999", "yes", "null", "\u0085", "\ufeff", "\u2028", "%YAML 9.9\n"]
yaml_text = st.lists(st.sampled_from([*"abc:-?[]{},&*!|>%@`'\"#~\n\t ", *TOKENS, *ODDITIES]), max_size=40).map("".join)


@settings(max_examples=400, deadline=None)
@given(yaml_text | st.text(max_size=60))
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    _parse(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_config_error(raw: bytes) -> None:
    _parse(raw)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {<<: *a}",
        "a: &a {<<: [*a, *a]}",
        "a: &a [{<<: *a}]",
        "a: 0x_",
        "a: 0b_",
        "a: " + "1" * 5000,
        "a: 0x" + "f" * 5000,
        "&a {*a : 1}",
        "- &a\n- *a",
        "[" * 100_000,
        "a:\n" + "".join(" " * n + "- \n" for n in range(1, 400)),
        "!!binary x: y",
        "a: !!python/object/apply:os.system [true]",
        "? ",
        "? \n: ",
        "<<: x",
        "<<: [1, 2]",
    ],
)
def test_yaml_that_is_written_to_break_its_reader(text: str) -> None:
    _parse(text.encode())


def _parse(raw: bytes) -> None:
    try:
        document = yaml_reader.parse(raw, "c")
    except ConfigError as error:
        assert error.problems
        assert all(line.startswith("c:") and "\n" not in line for line in error.problems)
        return
    assert isinstance(document.values, dict)


leaves = st.sampled_from(
    ["1", "-1", "0", "9" * 400, "1.5", "1.0e999", "yes", "~", "fast", "1\u212aB", "[1]", "{a: 1}", "''"]
)
sections = {
    name: list(field.annotation.model_fields)
    for name, field in Config.model_fields.items()
    if hasattr(field.annotation, "model_fields")
}
settings_of_sections = st.sampled_from(sorted(sections)).flatmap(
    lambda section: st.tuples(st.just(section), st.sampled_from(sections[section]), leaves)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(settings_of_sections, min_size=1, max_size=4))
def test_any_value_for_any_key_is_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(
        "".join(f"{s}: {{{key}: {value}}}\n" for s, key, value in {s: (s, k, v) for s, k, v in chosen}.values())
    )
    environ = {f"DWCP_{section}__{key}".upper(): value for section, key, value in chosen}
    for files, variables in (([path], {}), ([Path(path)], environ)):
        try:
            load_config(files, variables)
        except ConfigError as error:
            assert all(error.problems)
