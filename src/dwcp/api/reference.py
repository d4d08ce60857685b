"""Writes docs/http.md: `python -m dwcp.api.reference > docs/http.md`."""

from __future__ import annotations

from dwcp.api.endpoint import Parameter
from dwcp.api.routes import ENDPOINTS

_HEAD = """# HTTP

Generated from the route table by `python -m dwcp.api.reference`. The same table makes `/openapi.json`.

Plain HTTP on `http.listen` (127.0.0.1:8080), HTTPS with TLS 1.3 and the node's own certificate on `http.tls_listen`
(127.0.0.1:8443). Reading is open to whoever can connect. What changes something, `/events`, `/config` and all of
`/debug` need, on a listener that is not loopback, `Authorization: Bearer TOKEN` with the token in `identity/api-token`
of the state directory; on loopback they need none, but are refused when asked from another site's page or under a name
that is not this machine's. `/debug` is off unless [`debug.enabled`](configuration.md#debug) allows it. Errors are JSON
objects with `code` and `message`.

On the plain listener a process of its own answers `/health`, `/live` and `/ready`, from copies that are at most 0.2 s
old; of a manager that has been silent for 5 s they say 503. A request's head is at most 16 KiB and takes at most 10 s,
a body at
most 64 KiB, and who leaves an answer unread for 30 s is cut off. Where there are too many connections,
those that have waited longest for a request are closed.

| method | path | what | answers besides 200 |
| --- | --- | --- | --- |
"""


def reference() -> str:
    """The page."""
    rows = [
        f"| {endpoint.method} | `{endpoint.path}`{_query(endpoint.query)} | {endpoint.summary} | "
        f"{', '.join(f'{status} {meaning}' for status, meaning in endpoint.statuses.items())} |"
        for endpoint in ENDPOINTS
    ]
    rows.append("| GET | `/metrics` | Metrics for Prometheus; OpenMetrics where asked for | |")
    rows.append("| GET | `/` | The dashboard, a page for people; its files are below `/dashboard/` | |")
    rows.append("| GET | `/openapi.json` | OpenAPI 3.1 | |")
    return _HEAD + "\n".join(rows) + "\n"


def _query(query: dict[str, Parameter]) -> str:
    return "".join(f"<br>?{name}= {parameter.meaning}" for name, parameter in query.items())


if __name__ == "__main__":
    print(reference(), end="")
