"""What a process tells over HTTP: /live, /ready and /metrics. Answered by threads, which ask nobody."""

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog

from worker.pulse import Pulse
from worker.settings import WrongSettings

log = structlog.get_logger()

SHUTDOWN_WITHIN_S = 0.1


class Handler(WSGIRequestHandler):
    timeout = 5.0  # of a client that says nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base's signature
        """A probe every few seconds is no news."""


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each request, none of which the process waits for at its end."""

    daemon_threads = True

    def __init__(self, host: str, port: int, application: WSGIApplication) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Without the base's look-up of our own name, which can take as long as a resolver likes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # bytes on no platform
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - the base's signature
        """A client that has gone or says nothing: no reason for a traceback."""
        log.debug("http.given_up", error=type(sys.exception()).__name__)


@contextlib.contextmanager
def listening(address: str, application: WSGIApplication) -> Iterator[str]:
    """Serve at `host:port` until the block ends, and name the URL. Raises WrongSettings where that can't be had."""
    host, _, port = address.rpartition(":")
    try:
        server = Server(host.strip("[]"), int(port), application)
    except OSError as exc:
        raise WrongSettings(f"LOWTIDE_HTTP: can't listen on {address}: {exc.strerror or exc}") from exc
    serve = threading.Thread(target=server.serve_forever, args=(SHUTDOWN_WITHIN_S,), name="http", daemon=True)
    serve.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def application(pulse: Pulse, metrics: WSGIApplication) -> WSGIApplication:
    probes: dict[str, Callable[[], str | None]] = {"/live": pulse.why_not_live, "/ready": pulse.why_not_ready}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in probes:
            return _line(start_response, "404 Not Found", "there are /live, /ready and /metrics")
        if method not in {"GET", "HEAD"}:
            return _line(start_response, "405 Method Not Allowed", "GET and HEAD are answered")
        fault = probes[path]()
        status = "200 OK" if fault is None else "503 Service Unavailable"
        return _line(start_response, status, fault or "ok", with_body=method == "GET")

    return answer


def _line(start_response: StartResponse, status: str, said: str, *, with_body: bool = True) -> Iterable[bytes]:
    body = f"{said}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(status, [*headers, ("Cache-Control", "no-store")])
    return [body] if with_body else []
