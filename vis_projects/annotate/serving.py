"""Serving the page of a video until Ctrl-C."""

from __future__ import annotations

import ctypes
import secrets
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ..structures import InputError
from ..video import VideoPredictor
from .session import DEFAULT_CONFIG, Session


def serve(
    video: Path,
    *,
    project: Path | None = None,
    config: str | None = None,
    weights: str | None = None,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
) -> None:
    """Serve the page of a video until Ctrl-C.

    Raises:
        InputError: the extra is not installed, the video cannot be read, the port is taken.
    """
    try:
        import uvicorn

        from .server import create_app
    except ImportError as error:
        raise InputError(
            f"vis annotate needs {error.name}: pip install 'vis-projects[annotate]'"
        ) from None
    return_large_blocks()
    session = Session(video, project=project, predictor=_predictor(config, weights, device))
    token = secrets.token_urlsafe(24)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    names = {host, "127.0.0.1", "localhost"} if host != "0.0.0.0" else {socket.gethostname()}
    hosts = {f"{name}:{port}" for name in names | {"127.0.0.1", "localhost"}}
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/?token={token}"
    print(f"{session.frames.path}: {address}", flush=True)
    print(f"annotations: {session.project.folder}; Ctrl-C ends", flush=True)
    if browser:
        webbrowser.open(address)
    config_ = uvicorn.Config(
        create_app(session, token=token, hosts=hosts),
        log_level="warning",
        ws_max_size=1 << 16,
        timeout_graceful_shutdown=2,
    )
    try:
        uvicorn.Server(config_).run(sockets=[listening])
    finally:
        session.close()


def return_large_blocks() -> None:
    """Give freed frames back to the system at once (glibc).

    By itself glibc keeps what a thread freed for that thread, so that a server of many threads
    grows by several frames for each of them.
    """
    threshold, megabyte = -3, 1 << 20  # M_MMAP_THRESHOLD: larger blocks are mapped by themselves
    try:
        ctypes.CDLL(None).mallopt(threshold, megabyte)
    except (AttributeError, OSError, TypeError):  # another C library
        return


def _predictor(
    config: str | None, weights: str | None, device: str | None
) -> Callable[[], VideoPredictor]:
    if config is None and weights is not None:
        return lambda: VideoPredictor(weights, device=device)
    return lambda: VideoPredictor(config or DEFAULT_CONFIG, weights=weights, device=device)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(64)  # a browser that is quicker than the server waits
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}") from None
    return listening
