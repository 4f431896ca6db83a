"""The daemon's side of the control socket: HTTP over a Unix socket, for `vfsd` commands and nobody else.

    GET  /status                        one JSON object
    POST /flush   {"paths": [..]|null}  a JSON document a line: progress, at last one result
    POST /umount  {"timeout": s|null}   the same
    POST /warm    {"paths": [..]}       the same

Only the owner of the mount and root can connect: the socket has mode 0600 in a folder of mode 0700.
Operations belong to the session: a client that goes away ends nothing, and a second `umount` follows the
first. Paths are text as os.fsdecode gives it. Imported only once the mount answers.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Protocol

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vfsd.daemon.operation import Operation

# A request names at most the files of a plate: 100,000 paths of 160 bytes.
LARGEST_REQUEST = 16 << 20
# How long clients may take to read their last lines once the session is over.
GRACE_SECONDS = 3.0


class Controlled(Protocol):
    """What the control API talks to: a `Session`."""

    def status(self) -> dict[str, Any]: ...

    def begin_flush(self, paths: Sequence[bytes] | None) -> Operation: ...

    def begin_unmount(self, timeout: float | None) -> Operation: ...

    def begin_warm(self, paths: Sequence[bytes]) -> Operation: ...


async def serve_control(session: Controlled, listener: socket.socket, stop: trio.Event) -> None:
    """Serve clients of a listening socket until `stop` is set and they have their last lines.

    Closes its own descriptor of the socket, not `listener`.
    """
    config = Config()
    # Duplicated, since hypercorn closes what it is given.
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("vfsd.control")
    config.errorlog.setLevel(logging.WARNING)
    config.include_server_header = False
    answers = UnderWay(application(session))
    async with trio.open_nursery() as nursery:
        # hypercorn's type of an application is narrower than ASGI's newest form, which starlette has.
        nursery.start_soon(partial(serve, answers, config, mode="asgi"))  # type: ignore[arg-type]
        await stop.wait()
        with trio.move_on_after(GRACE_SECONDS):
            await answers.none.wait()
        # Not hypercorn's own shutdown: that waits some seconds for connections which have all they asked for.
        nursery.cancel_scope.cancel()


class UnderWay:
    """An ASGI application that knows when none of its answers is being sent: then `none` is set."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._count = 0
        self.none = trio.Event()
        self.none.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The server's own "lifespan" is none and lasts as long as it does."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if self._count == 0:
            self.none = trio.Event()
        self._count += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._count -= 1
            if self._count == 0:
                self.none.set()


def application(session: Controlled) -> Starlette:
    """The routes of one session."""

    async def status(request: Request) -> Response:
        return _json(session.status())

    async def flush(request: Request) -> Response:
        paths = (await _document(request)).get("paths")
        if paths is not None and not _is_list_of_paths(paths):
            raise HTTPException(400, "paths must be a list of plate-relative paths, or null")
        return _lines(session.begin_flush(None if paths is None else [os.fsencode(path) for path in paths]))

    async def warm(request: Request) -> Response:
        paths = (await _document(request)).get("paths")
        if paths is None or not _is_list_of_paths(paths):
            raise HTTPException(400, "paths must be a list of plate-relative paths")
        return _lines(session.begin_warm([os.fsencode(path) for path in paths]))

    async def umount(request: Request) -> Response:
        timeout = (await _document(request)).get("timeout")
        if timeout is not None and not _is_duration(timeout):
            raise HTTPException(400, "timeout must be a number of seconds, or null")
        return _lines(session.begin_unmount(timeout))

    return Starlette(
        routes=[
            Route("/status", status, methods=["GET"]),
            Route("/flush", flush, methods=["POST"]),
            Route("/umount", umount, methods=["POST"]),
            Route("/warm", warm, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _explain, Exception: _explain_unexpected},
    )


async def _document(request: Request) -> dict[str, Any]:
    """The JSON object in the request's body; an empty body is an empty object."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_REQUEST:
            raise HTTPException(413, "the request is too large")
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the request is not JSON") from error
    if not isinstance(document, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return document


def _is_list_of_paths(value: object) -> bool:
    """Plate-relative, nothing that leads out of the plate, and nothing that a file system could not hold."""
    return isinstance(value, list) and all(
        isinstance(path, str)
        and "\0" not in path
        and not path.startswith("/")
        and ".." not in path.split("/")
        and _is_encodable(path)
        for path in value
    )


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _lines(operation: Operation) -> Response:
    async def encoded() -> AsyncIterator[bytes]:
        async for item in operation.follow():
            yield json.dumps(item).encode("ascii") + b"\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson")


def _json(document: dict[str, Any], status: int = 200) -> Response:
    """ASCII only: paths may hold bytes that are no UTF-8, which JSON carries as escaped surrogates."""
    return Response(json.dumps(document).encode("ascii"), status, media_type="application/json")


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


async def _explain_unexpected(request: Request, error: Exception) -> Response:
    logging.getLogger("vfsd.control").error("event=request-failed path=%s", request.url.path, exc_info=error)
    return _json({"error": f"unexpected {type(error).__name__}"}, 500)
