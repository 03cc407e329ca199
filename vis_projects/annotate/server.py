"""The HTTP side: who may ask, what may be asked, what the page gets.

Every request must name the right host, come from the page itself (Origin) and carry the token of
this start. No request names a file: frames and objects are numbers, the page's own files are a
fixed list, exports go to fixed places below the project folder.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..structures import InputError
from ..structures.palette import id_colour, id_palette
from ..video.first_mask import Prompt, mask_of
from .exporting import KINDS, export
from .session import Session

# Threads that work for requests: each keeps what it freed of large frames.
THREADS = 4
MOST_BYTES = 24 << 20  # of a request: a 16-megapixel mask as PNG fits many times
_PAGE = Path(__file__).parent / "page"
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "canvas.js": "text/javascript; charset=utf-8",
    "objects.js": "text/javascript; charset=utf-8",
    "timeline.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware: refuses foreign hosts, foreign pages, wrong tokens and large bodies."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await self._refuse(scope, receive, send, refusal)
            return
        if scope["type"] == "http":
            receive = _limited(receive)
        try:
            await self.app(scope, receive, send)
        except _TooLarge:
            await self._refuse(scope, receive, send, (413, "too large"))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if host not in self.hosts:
            return 403, "unknown host"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return 403, "foreign origin"
        if scope["type"] == "http" and scope["path"].removeprefix("/") in _FILES:
            return None  # the page's own files hold no secret
        size = headers.get("content-length", "0")
        if not size.isdigit() or int(size) > MOST_BYTES:
            return 413, "too large"
        given = headers.get("x-token") or _query(scope).get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "the token is missing or wrong: use the address that vis annotate printed"
        return None

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refusal: tuple[int, str]
    ) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, reason = refusal
        await Response(reason, status, headers=_HEADERS)(scope, receive, send)


class _TooLarge(Exception):
    """A body that grows beyond the limit without having said so."""


def _limited(receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MOST_BYTES:
            raise _TooLarge
        return message

    return limited


def _query(scope: Scope) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))


class Listeners:
    """The pages that are open; events reach all of them, from any thread."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self) -> asyncio.Queue:
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue = asyncio.Queue(maxsize=256)
        self._queues.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue) -> None:
        self._queues.discard(queue)

    def tell(self, event: dict[str, Any]) -> None:
        if self._loop is not None and self._queues and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: dict[str, Any]) -> None:
        for queue in self._queues:
            if queue.full():  # a page that does not read: it asks for the whole state later
                queue.get_nowait()
            queue.put_nowait(event)


def create_app(session: Session, *, token: str, hosts: Collection[str]) -> ASGIApp:
    """Return the application of one session.

    Args:
        token: that every request must carry, as ``X-Token`` or ``?token=``.
        hosts: ``name:port`` that the Host header may hold.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_few_threads)
    listeners = Listeners()
    project, frames, follower = session.project, session.frames, session.follower
    session.tell = lambda event: listeners.tell({**event, "revision": project.revision})

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.middleware("http")
    async def headers(request: Request, call: Any) -> Response:
        response = await call(request)
        response.headers.update(_HEADERS)
        return response

    def changed(**more: Any) -> dict[str, Any]:
        listeners.tell({"kind": "changed", "revision": project.revision})
        return {"revision": project.revision, **more}

    @app.get("/")
    async def index() -> Response:
        return Response((_PAGE / "index.html").read_bytes(), media_type=_FILES["index.html"])

    @app.get("/{name}.{suffix}")
    async def page_file(name: str, suffix: str) -> Response:
        file = f"{name}.{suffix}"
        if file not in _FILES:
            return Response("not found", 404)
        return Response((_PAGE / file).read_bytes(), media_type=_FILES[file])

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return {
            **project.state(),
            "proxy": list(frames.proxy_size),
            "fps": frames.source.fps or 24.0,
            "busy": follower.busy,
            "exports": list(KINDS),
            "colours": {i: "#{:02x}{:02x}{:02x}".format(*id_colour(i)) for i in project.objects},
        }

    @app.get("/api/frames/{t}")
    def frame(t: int) -> Response:
        return Response(frames.jpeg(t), media_type="image/jpeg")

    @app.get("/api/frames/{t}/masks")
    def masks(t: int) -> Response:
        """The ids of a frame as a palette PNG in proxy size; index 0 is transparent."""
        labels = project.label_map(t)
        rows, columns = frames.proxy_size
        image = Image.fromarray((labels % 256).astype(np.uint8))
        image.putpalette(id_palette())
        image = image.resize((columns, rows), Image.Resampling.NEAREST)
        return Response(_png(image, transparency=0), media_type="image/png")

    @app.get("/api/frames/{t}/masks/{object_id}")
    def mask(t: int, object_id: int) -> Response:
        """One object's mask as a grey PNG of 0 and 255 in proxy size."""
        rows, columns = frames.proxy_size
        image = Image.fromarray(project.mask(t, object_id).astype(np.uint8) * 255)
        image = image.resize((columns, rows), Image.Resampling.NEAREST)
        return Response(_png(image), media_type="image/png")

    @app.put("/api/frames/{t}/masks/{object_id}")
    async def draw(t: int, object_id: int, request: Request) -> dict[str, Any]:
        """The body is a PNG in proxy size: white, or opaque, is the object."""
        body = await request.body()
        await run_in_threadpool(lambda: project.draw(t, object_id, _mask(body, frames.size)))
        return changed()

    @app.delete("/api/frames/{t}/masks/{object_id}")
    def erase(t: int, object_id: int) -> dict[str, Any]:
        project.erase(t, object_id)
        return changed()

    @app.post("/api/frames/{t}/prompt/{object_id}")
    async def prompt(t: int, object_id: int, request: Request) -> dict[str, Any]:
        """``{"box": [x0, y0, x1, y1], "inside": [[x, y]], "outside": [...]}``, video pixels."""
        given = _prompt(await _json(request))

        def work() -> None:
            project.draw(t, object_id, mask_of(frames.image(t), given, object_id))

        await run_in_threadpool(work)
        return changed()

    @app.post("/api/objects")
    async def add(request: Request) -> dict[str, Any]:
        return changed(id=project.add_object(_text(await _json(request), "name", "")))

    @app.post("/api/objects/{object_id}")
    async def act(object_id: int, request: Request) -> dict[str, Any]:
        """``{"action": "rename" | "accept" | "delete" | "merge" | "split", ...}``."""
        data = await _json(request)
        action = _text(data, "action")
        if action == "rename":
            project.rename(object_id, _text(data, "name"))
        elif action == "accept":
            project.accept(object_id)
        elif action == "delete":
            project.delete(object_id, _number(data, "from", 0))
        elif action == "merge":
            project.merge(object_id, _number(data, "into"))
        elif action == "split":
            return changed(id=project.split(object_id, _number(data, "from")))
        else:
            raise InputError(f"action {action!r} is unknown")
        return changed()

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        _free(follower)
        return changed(done=project.undo())

    @app.post("/api/redo")
    def redo() -> dict[str, Any]:
        _free(follower)
        return changed(done=project.redo())

    @app.post("/api/follow")
    async def follow(request: Request) -> dict[str, Any]:
        """``{"frame", "direction": 1 | -1, "count", "ids": []}``."""
        data = await _json(request)
        ids = data.get("ids", [])
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
            raise InputError("ids is a list of numbers")
        follower.follow(
            _number(data, "frame"), _number(data, "direction", 1), _number(data, "count", 1), ids
        )
        return changed()

    @app.post("/api/propose")
    def propose() -> dict[str, Any]:
        follower.propose()
        return changed()

    @app.post("/api/stop")
    def stop() -> dict[str, Any]:
        follower.stop()
        return changed()

    @app.post("/api/export")
    async def export_(request: Request) -> dict[str, Any]:
        kind = _text(await _json(request), "kind")
        files = await run_in_threadpool(export, session, kind)
        return {"files": [str(f) for f in files]}

    @app.websocket("/api/events")
    async def events(socket: WebSocket) -> None:
        await socket.accept()
        queue = listeners.join()
        try:
            await socket.send_json({"kind": "changed", "revision": project.revision})
            reading = asyncio.create_task(_drain(socket))
            while True:
                waiting = asyncio.create_task(queue.get())
                done, _ = await asyncio.wait(
                    {waiting, reading}, return_when=asyncio.FIRST_COMPLETED
                )
                if reading in done:
                    waiting.cancel()
                    break
                await socket.send_json(waiting.result())
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            listeners.leave(queue)

    return Gate(app, token=token, hosts=hosts)


@asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


async def _drain(socket: WebSocket) -> None:
    """Read and forget what a page sends until it goes."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


def _free(follower: Any) -> None:
    if follower.busy:
        raise InputError("a run is under way: stop it first")


def _png(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=1, **options)
    return out.getvalue()


def _mask(body: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a drawn mask to bool (H, W) of the video."""
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            if image.width * image.height > 4096 * 4096:
                raise InputError("the mask is larger than any frame")
            channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
            channel = channel.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(channel) > 127
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"the mask is no readable PNG ({error})") from None


async def _json(request: Request) -> dict[str, Any]:
    try:
        data = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InputError("the request is no json") from None
    if not isinstance(data, dict):
        raise InputError("the request is no json object")
    return data


def _text(data: dict[str, Any], key: str, default: str | None = None) -> str:
    value = data.get(key, default)
    if not isinstance(value, str) or len(value) > 200:
        raise InputError(f"{key} is a text of at most 200 characters")
    return value


def _number(data: dict[str, Any], key: str, default: int | None = None) -> int:
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 10**9:
        raise InputError(f"{key} is a whole number")
    return value


def _prompt(data: dict[str, Any]) -> Prompt:
    def places(key: str) -> list[tuple[float, float]]:
        points = data.get(key, [])
        good = isinstance(points, list) and len(points) <= 1000
        if not good or not all(_floats(p, 2) for p in points):
            raise InputError(f"{key} is a list of points [x, y]")
        return [(float(x), float(y)) for x, y in points]

    box = data.get("box")
    if box is not None and not _floats(box, 4):
        raise InputError("box is [x0, y0, x1, y1]")
    return Prompt(
        box=None if box is None else tuple(map(float, box)),
        inside=places("inside"),
        outside=places("outside"),
    )


def _floats(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in values)
    )
