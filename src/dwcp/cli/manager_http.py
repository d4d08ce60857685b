"""Requests of commands to the manager of this machine, over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dwcp.dashboard import KEEP_ALIVE
from dwcp.errors import AuthenticationError, UnreachableError, from_code
from dwcp.links.endpoints import is_loopback, split_address

TIMEOUT = 5.0
"""Seconds: a manager on this machine answers in milliseconds, or not at all."""
PEER_TIMEOUT = 60.0
"""Seconds: it waits for a peer as long as transport.connect_timeout and read_timeout allow, by default."""
SILENCE = 2.5 * KEEP_ALIVE


def ask(address: str, path: str, *, method: str = "GET", token: str = "") -> Any:
    """The JSON that a local manager answers. Raises UnreachableError, or what it says is wrong."""
    manager = ManagerHttp(address, token)
    return manager.get(path) if method == "GET" else manager.post(path)


class ManagerHttp:
    """The manager that listens at `address`. `token` is what it wants off loopback; empty where none is known."""

    def __init__(self, address: str, token: str = "") -> None:
        self._host, self._port = split_address(address)
        self._address = address
        # a listener on loopback answers to this machine's own names only
        name = "localhost" if is_loopback(self._host) else self._host
        self._headers = {"Host": f"{name}:{self._port}", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._lock = threading.Lock()
        self._stream: socket.socket | None = None
        self._closed = False

    def get(self, path: str) -> Any:
        """Whatever the status is: that of /health says what its body says. Raises UnreachableError."""
        return self._ask("GET", path)[1]

    def post(self, path: str) -> Any:
        """Raises UnreachableError, or what the manager says is wrong."""
        return self._checked("POST", path, TIMEOUT)

    def ask_a_peer(self, path: str) -> Any:
        """As `get`, of what the manager has to ask a peer for. Raises as `post`."""
        return self._checked("GET", path, PEER_TIMEOUT)

    def _checked(self, method: str, path: str, timeout: float) -> Any:
        status, answer = self._ask(method, path, timeout)
        if status >= 400:
            raise from_code(str(answer.get("code")), str(answer.get("message")))
        return answer

    def _ask(self, method: str, path: str, timeout: float = TIMEOUT) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            connection.request(method, path, headers=self._headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def events(self) -> Iterator[tuple[str, Any]]:
        """(event, data) of the live stream, until it ends or `close` is called. Raises UnreachableError, or
        AuthenticationError where the manager wants another token."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=SILENCE)
        try:
            connection.request("GET", "/events", headers=self._headers)
            with self._lock:
                self._stream = connection.sock
            response = connection.getresponse()
            if response.status == 401:
                raise AuthenticationError(json.loads(response.read())["message"])
            if response.status != 200:
                raise UnreachableError(f"the manager at {self._address} answers {response.status} to /events")
            yield from _parsed(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not self._closed:
                raise self._unreachable(error) from error
        finally:
            with self._lock:
                self._stream = None
            connection.close()

    def close(self) -> None:
        """Ends `events`, from any thread."""
        with self._lock, contextlib.suppress(OSError):
            self._closed = True
            if self._stream is not None:
                self._stream.shutdown(socket.SHUT_RDWR)

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the manager at {self._address} does not answer ({error}); it may have been killed: start it again"
        )


def read_token(state_dir: Path) -> str:
    """Empty where there is none, or it is not for this user to read."""
    try:
        return (state_dir / "identity" / "api-token").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _parsed(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    event, data = "", ""
    while line := response.readline().decode():
        if line.startswith("event: "):
            event = line[7:].strip()
        elif line.startswith("data: "):
            data = line[6:]
        elif line == "\n" and event:
            yield event, json.loads(data)
            event, data = "", ""
