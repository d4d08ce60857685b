"""Bodies of requests."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from dwcp.errors import UsageError

MAX_BODY = 64 * 1024
"""Bytes of a body: the longest workload is far shorter."""


async def read_object(request: Request, most: int = MAX_BODY) -> dict[str, Any]:
    """Raises UsageError for what is no JSON object, or has more than `most` bytes."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise UsageError(f"the body has more than {most} bytes")
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is no JSON object: {error}") from error
