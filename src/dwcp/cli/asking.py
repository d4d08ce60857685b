"""Requests of a command to the manager of its configuration, over HTTP on this machine."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwcp.cli.status import find_manager
from dwcp.config import Config
from dwcp.errors import UnreachableError, from_code
from dwcp.links.endpoints import split_address
from dwcp.manager.statedir import api_token

TIMEOUT = 30.0
"""Seconds: it answers in milliseconds, but may wait for its disk."""


def ask_manager(config: Config, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """What the manager answers, as JSON. The token is in the state directory, where only its user can read it.

    Raises NotFoundError where no manager runs, UnreachableError, or what the manager says.
    """
    state_dir = Path(config.storage.state_dir)
    address = find_manager(state_dir).addresses["http"]
    host, port = split_address(address)
    headers = {"Host": f"localhost:{port}"}
    if method != "GET":
        headers["Authorization"] = f"Bearer {api_token(state_dir)}"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"the manager at {address} does not answer ({error}); it may have been killed: start it again"
        ) from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise from_code(document.get("code", ""), document.get("message", f"the manager answers {answer.status}"))
    return document
