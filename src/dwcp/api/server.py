"""HTTP of the manager: uvicorn on TLS connections, and on what `api.probes` hands over of the plain listener's.

We bind the sockets, so a taken port has a clear error.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from dwcp.api.app import create_app
from dwcp.api.connection import MAX_CONNECTIONS, Connection
from dwcp.api.endpoint import compact
from dwcp.api.front import Front
from dwcp.api.routes import ENDPOINTS
from dwcp.config import Config
from dwcp.dashboard.feed import Feed
from dwcp.errors import StateError, UnreachableError
from dwcp.links.endpoints import is_loopback, split_address
from dwcp.metrics.http import HttpMetrics
from dwcp.metrics.view import NodeView
from dwcp.supervise.health import HEALTHY, Health, NodeHealth, Status

STOP_SECONDS = 2.0
"""For requests that are under way when the node stops."""
KEEP_ALIVE = 30
"""Seconds: two scrapes of a usual Prometheus ride one connection."""
MAX_HEADERS = 16 * 1024
COPY_SECONDS = 0.2
"""Between two looks whether what probes are answered with is still so; one takes some 0.15 ms."""
TICK = 1.0
"""Seconds between two looks at the time, for the header `date`."""
UNREAD_SECONDS = 30
"""What a client leaves in our buffers for longer than this ends its connection (TCP_USER_TIMEOUT)."""

log = structlog.get_logger()


class HttpServer:
    """The `http` component."""

    name = "http"

    def __init__(
        self,
        view: NodeView,
        registry: CollectorRegistry,
        *,
        listen: str,
        tls_listen: str,
        token: str,
        certificate: tuple[Path, Path],
    ) -> None:
        """`token` is asked of requests that change something on listeners that are not loopback. `certificate`: files
        of certificate and key for `tls_listen`; the empty address means none."""
        self._view = view
        self._registry = registry
        self._metrics = HttpMetrics(registry)
        self._feed = Feed(view)
        self._listens = {"http": listen, "https": tls_listen}
        self._token = token
        self._certificate = _Certificate(*certificate)
        self._servers: dict[str, _Server] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._front: Front | None = None
        self._shown: tuple[Config, NodeHealth] | None = None
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Returns when connections are accepted. Raises StateError when an address cannot be had."""
        self._feed.start()
        try:
            for scheme, address in self._listens.items():
                if address:
                    await self._serve(scheme, address)
        except BaseException:
            await self.stop()
            raise

    async def _serve(self, scheme: str, address: str) -> None:
        sock = _bind(address, f"http.{'tls_listen' if scheme == 'https' else 'listen'}")
        host, port = sock.getsockname()[:2]
        app = create_app(
            self._view,
            self._registry,
            self._metrics,
            self._feed,
            token=self._token,
            loopback=is_loopback(str(host)),
            before_answer=self.show,
        )
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(STOP_SECONDS),
            limit_concurrency=2 * MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADERS,
            ws="none",
        )
        config.load()
        if scheme == "https":
            config.ssl = self._certificate.load()
        server = _Server(config)
        self._servers[scheme] = server
        listeners = [sock] if scheme == "https" else []
        self._tasks.append(asyncio.create_task(server.serve(sockets=listeners), name=f"dwcp-{scheme}"))
        await server.ready.wait()
        if scheme == "http":
            self._shown = None
            self._front = await Front.start(sock, server.take, self._metrics.report)
            self.show()
            self._tasks.append(asyncio.create_task(self._keep_showing(), name="dwcp-http-copies"))
        self.addresses[scheme] = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
        log.info("http listens", scheme=scheme, address=self.addresses[scheme])

    async def stop(self) -> None:
        await self._feed.stop()
        if self._front is not None:
            front, self._front = self._front, None
            await front.stop()
            self._metrics.keep()
        for server in self._servers.values():
            server.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS + 1)
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._servers.clear()
        self.addresses.clear()

    async def _keep_showing(self) -> None:
        while self._front is not None:
            await asyncio.sleep(COPY_SECONDS)
            self.show()

    def show(self) -> None:
        """What is so now is what probes are answered from now on. Nobody who was told something newer by the manager
        itself is told something older there."""
        if self._front is None:
            return
        config, health = self._view.config, self._view.health()
        # an answer says whole seconds
        shown = (config, replace(health, uptime_seconds=int(health.uptime_seconds)))
        if shown == self._shown:
            return
        self._shown = shown
        probes = {endpoint.path: endpoint.probe(config, health) for endpoint in ENDPOINTS if endpoint.probe}
        self._front.show({path: (status, compact(document)) for path, (status, document) in probes.items()})

    async def check(self) -> Health:
        """Asks its own listener whether it is alive, as a load balancer would; and shows a renewed certificate from now
        on."""
        await asyncio.to_thread(self._certificate.follow)
        if not self._tasks or any(task.done() for task in self._tasks) or self._front is None or not self._front.runs:
            return Health(Status.UNHEALTHY, "the HTTP server has stopped")
        host, port = split_address(self.addresses["http"])
        reader, writer = await asyncio.open_connection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104
        try:
            writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.readline()
        finally:
            writer.close()
        if b" 200 " not in answer:
            return Health(Status.UNHEALTHY, f"/live answers {answer.decode(errors='replace').strip()!r}")
        return HEALTHY


class _Server(uvicorn.Server):
    """Leaves signals to the manager, and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._leaves = asyncio.Event()
        self._taken: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            # where it did not end by itself, nobody else gives the address up
            for listener in getattr(self, "servers", []):
                listener.close()
            for sock in sockets or []:
                sock.close()

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it is time to go."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._leaves.wait()

    def leave(self) -> None:
        self.should_exit = True
        self._leaves.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def take(self, sock: socket.socket) -> None:
        """A connection that another process has accepted."""
        task = asyncio.create_task(self._connect(sock))
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)

    async def _connect(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            # the client has gone
            await loop.connect_accepted_socket(
                lambda: Connection(config=self.config, server_state=self.server_state, app_state={}), sock
            )


def _bind(address: str, key: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=1024, dualstack_ipv6=family == socket.AF_INET6 and not host
        )
        # inherited by what it accepts
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
        return listener
    except OSError as error:
        raise StateError(
            f"cannot listen on {address}: {error.strerror}; see who has it with `ss -ltnp`, or change {key}"
        ) from error


class _Certificate:
    """What HTTPS shows. A context belongs to its listener for good, but takes another certificate for connections to
    come."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._context: ssl.SSLContext | None = None
        self._seen: list[tuple[int, int]] = []

    def load(self) -> ssl.SSLContext:
        """Raises UnreachableError."""
        self._seen = self._stamps()
        self._context = self._read()
        return self._context

    def follow(self) -> None:
        """Takes the files over where they have changed; where they cannot be used it says so once."""
        stamps = self._stamps()
        if self._context is None or stamps == self._seen:
            return
        self._seen = stamps
        try:
            # first into a context that nobody uses: one that fails half-way would show nothing any more
            self._read()
            self._context.load_cert_chain(*self._files)
        except (UnreachableError, OSError) as error:
            log.warning("a changed certificate is not shown by HTTPS", reason=str(error))
        else:
            log.info("HTTPS shows a renewed certificate")

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(*self._files)
        except OSError as error:
            raise UnreachableError(f"the node's certificate in {self._files[0]} cannot be used: {error}") from error
        return context

    def _stamps(self) -> list[tuple[int, int]]:
        with contextlib.suppress(OSError):
            # in the middle of being replaced: looked at again with the next check
            return [(status.st_ino, status.st_mtime_ns) for status in (file.stat() for file in self._files)]
        return self._seen
