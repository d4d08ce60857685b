"""JSON Merge Patch: what a page makes of its document is what the node has."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dwcp.dashboard.patch import apply, difference

keys = st.sampled_from("abc")
values = st.sampled_from([0, 1, 1.0, True, False, "", "x", [], [1]])
flat = st.dictionaries(keys, values, max_size=3)
documents = st.dictionaries(keys, values | flat | st.dictionaries(keys, values | flat, max_size=2), max_size=3)


def exact(value: Any) -> Any:
    """With the types told apart that Python takes for equal."""
    if isinstance(value, dict):
        return {key: exact(entry) for key, entry in value.items()}
    return (type(value), value)


@given(documents, documents)
def test_a_patch_makes_the_new_document_of_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert exact(apply(before, difference(before, after))) == exact(after)


@given(documents)
def test_no_change_is_an_empty_patch(document: dict[str, Any]) -> None:
    assert difference(document, document) == {}


@given(documents, documents)
def test_a_patch_leaves_the_old_document_alone(before: dict[str, Any], after: dict[str, Any]) -> None:
    kept = repr(before)
    apply(before, difference(before, after))
    assert repr(before) == kept


def test_the_examples_of_the_rfc() -> None:
    target = {"a": "b", "c": {"d": "e", "f": "g"}}
    assert apply(target, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert apply({"a": "foo"}, {"a": {"b": {"c": None, "d": 1}}}) == {"a": {"b": {"d": 1}}}
    assert difference(target, {"a": "z", "c": {"d": "e"}}) == {"a": "z", "c": {"f": None}}
