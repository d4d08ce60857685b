"""The ASGI application: the endpoint table, its guards, and errors as JSON."""

from __future__ import annotations

import hmac
import math
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dwcp.api.endpoint import Endpoint, Json
from dwcp.api.probes import HEADERS
from dwcp.api.routes import ENDPOINTS, openapi
from dwcp.dashboard import assets
from dwcp.dashboard.assets import Asset
from dwcp.dashboard.feed import Feed
from dwcp.errors import CircuitOpenError, DwcpError, NotFoundError, RefusedError, UsageError
from dwcp.links.endpoints import is_loopback
from dwcp.metrics.http import HttpMetrics
from dwcp.metrics.view import NodeView


def create_app(
    view: NodeView,
    registry: CollectorRegistry,
    http_metrics: HttpMetrics,
    feed: Feed,
    *,
    token: str,
    loopback: bool,
    before_answer: Callable[[], None],
) -> Starlette:
    """`token`: what a request has to carry that changes something or looks into the process. On a `loopback` listener
    only those carry it that are `secret`; the others must come from this machine's own name, not from another site's
    page. `before_answer` is called when it is known what is answered, and nothing was sent yet."""

    def route(path: str, endpoints: list[Endpoint]) -> Route:
        """One for each path, so that the answer to a wrong method names all right ones."""
        by_method = {endpoint.method: endpoint for endpoint in endpoints}

        async def answer(request: Request) -> Response:
            endpoint = by_method["GET" if request.method == "HEAD" else request.method]
            with http_metrics.measure(endpoint.method, endpoint.path) as measured:
                wanted = token if endpoint.secret or not loopback else None
                refusal = _refusal(request, wanted, loopback=loopback) if endpoint.guarded else None
                response = refusal or await _handled(lambda: endpoint.handler(view, request))
                measured.status = response.status_code
            before_answer()
            response.headers.update(HEADERS)
            return response

        return Route(path, answer, methods=list(by_method))

    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        with http_metrics.measure("GET", "/metrics") as measured:
            content = encoder(registry)
            measured.status = 200
        return Response(content, headers={"Content-Type": content_type, **HEADERS})

    async def document(request: Request) -> Response:
        return Json(openapi(version("dwcp"), token_needed=not loopback), headers=HEADERS)

    def page(path: str, asset: Asset) -> Route:
        async def answer(request: Request) -> Response:
            headers = {"Content-Type": asset.media_type, "ETag": asset.tag, **assets.HEADERS}
            unchanged = request.headers.get("if-none-match") == asset.tag
            with http_metrics.measure("GET", "/dashboard") as measured:
                measured.status = 304 if unchanged else 200
                return Response(b"" if unchanged else asset.content, measured.status, headers)

        return Route(path, answer)

    async def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        text = {
            404: f"nothing is at {request.url.path}; /openapi.json lists what there is",
            405: f"{request.method} is not allowed here; allowed: {headers.get('Allow', headers.get('allow', ''))}",
        }.get(status, "the node failed to answer; its log says why")
        code = {404: "not-found", 405: "usage"}.get(status, "fatal")
        return Json({"code": code, "message": text}, status, headers={**headers, **HEADERS})

    paths: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, []).append(endpoint)
    routes = [route(path, endpoints) for path, endpoints in paths.items()]
    routes += [Route("/metrics", metrics), Route("/openapi.json", document)]
    routes += [page(path, asset) for path, asset in assets.load().items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: http_error, 500: http_error})
    # a redirect would carry whatever name the client called us by, and no JSON
    app.router.redirect_slashes = False
    app.state.feed = feed
    return app


async def _handled(call: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await call()
    except NotFoundError as error:
        return Json({"code": error.code, "message": str(error)}, 404)
    except UsageError as error:
        return Json({"code": error.code, "message": str(error)}, 400)
    except RefusedError as error:
        return Json({"code": error.code, "message": str(error)}, 403)
    except CircuitOpenError as error:
        wait = {"Retry-After": str(math.ceil(error.seconds))}
        return Json({"code": error.code, "message": str(error)}, 503, headers=wait)
    except DwcpError as error:
        return Json({"code": error.code, "message": str(error)}, 409)


def _refusal(request: Request, token: str | None, *, loopback: bool) -> Response | None:
    """Why this request may not change anything or look into the process; None when it may."""
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if request.headers.get("sec-fetch-site") not in (None, "same-origin", "none") or (
        origin is not None and origin.split("://")[-1] != host
    ):
        return Json({"code": "refused", "message": "requests from other sites' pages may not do this"}, 403)
    if loopback:
        name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
        if name != "localhost" and not is_loopback(name):
            # a name that was made to point here (DNS rebinding) is not ours
            return Json({"code": "refused", "message": f"this listener is for localhost, not for {name!r}"}, 403)
    if token is None:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        message = "a token is needed: Authorization: Bearer TOKEN (in the state directory, identity/api-token)"
        return Json({"code": "authentication", "message": message}, 401, headers={"WWW-Authenticate": "Bearer"})
    return None
