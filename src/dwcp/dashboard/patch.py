"""JSON Merge Patch (RFC 7396): what changed between two documents, and back. Pure.

A member that is None in a patch is one that went away, so documents that are compared have no None in them.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def difference(before: Document, after: Document) -> Document:
    """The patch that makes `after` of `before`; empty where they are the same."""
    patch: Document = dict.fromkeys(before.keys() - after.keys())
    for key, new in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = difference(old, new)
            if inner:
                patch[key] = inner
        elif old != new or type(old) is not type(new):
            # an object that takes the place of a value is merged into nothing, and so is told whole
            patch[key] = new
    return patch


def apply(document: Document, patch: Document) -> Document:
    """A new document; parts that did not change are shared with the old one."""
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            old = result.get(key)
            result[key] = apply(old if isinstance(old, dict) else {}, value)
        else:
            result[key] = value
    return result
