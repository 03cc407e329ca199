"""The server: follows as the Python API does, serves frames quickly, refuses whoever is not the
page."""

from __future__ import annotations

import io
import json
import os
import platform
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from annotated_clip import CONFIG, FRAMES, SIZE, predictor
from PIL import Image

pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from vis_projects.annotate.server import MOST_BYTES, THREADS, create_app
from vis_projects.annotate.serving import return_large_blocks
from vis_projects.annotate.session import Session
from vis_projects.structures import VideoResult
from vis_projects.video import VideoPredictor, open_source

TOKEN = "secret-token"


@pytest.fixture
def session(clip: Path):
    made = Session(clip, predictor=predictor)
    yield made
    made.close()


@pytest.fixture
def app(session: Session):
    return create_app(session, token=TOKEN, hosts={"testserver"})


@pytest.fixture
def client(app) -> TestClient:
    return TestClient(app, headers={"X-Token": TOKEN})


def png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, format="PNG")
    return out.getvalue()


def good(response) -> dict:
    assert response.status_code == 200, response.text
    return response.json()


def mark(client: TestClient, t: int, object_id: int, mask: np.ndarray) -> None:
    good(client.put(f"/api/frames/{t}/masks/{object_id}", content=png(mask)))


def test_exports_equal_the_python_api(client, session, clip: Path, labels) -> None:
    for i in (1, 2):
        assert good(client.post("/api/objects", json={"name": f"box {i}"}))["id"] == i
        mark(client, 0, i, labels[0] == i)
    good(client.post("/api/follow", json={"frame": 0, "direction": 1, "count": 15}))
    session.follower.wait()
    mark(client, 15, 1, labels[15] == 1)  # a correction
    good(client.post("/api/follow", json={"frame": 15, "direction": 1, "count": 100}))
    session.follower.wait()
    good(client.post("/api/export", json={"kind": "ytvis"}))
    good(client.post("/api/export", json={"kind": "davis"}))
    exported = VideoResult.load(session.project.folder / "exports" / "ytvis")

    api = VideoPredictor(CONFIG, device="cpu")
    source = open_source(clip)
    wanted = []
    api.start(SIZE, masks={i: labels[0] == i for i in (1, 2)})
    for t in range(16):
        wanted.append(api.step(source[t].array()).label_map().numpy())
    masks = {1: labels[15] == 1, 2: (wanted[15] == 2) & (labels[15] != 1)}
    api.start(SIZE, masks=masks)
    wanted.pop()
    for t in range(15, FRAMES):
        wanted.append(api.step(source[t].array()).label_map().numpy())
    assert np.array_equal(exported.to_labels(), np.stack(wanted))
    assert exported.class_names == ["box 1", "box 2"]
    for t in (0, 15, FRAMES - 1):
        with Image.open(session.project.folder / "exports" / "davis" / f"{t:05d}.png") as image:
            assert np.array_equal(np.asarray(image), wanted[t])


def test_backward_stop_and_events(client, session, labels) -> None:
    good(client.post("/api/objects", json={}))
    mark(client, 20, 1, labels[20] == 1)
    with client.websocket_connect(f"/api/events?token={TOKEN}") as socket:
        assert socket.receive_json()["kind"] == "changed"
        good(client.post("/api/follow", json={"frame": 20, "direction": -1, "count": 8}))
        kinds = []
        while not kinds or kinds[-1] not in ("done", "failed"):
            kinds.append(socket.receive_json()["kind"])
    assert kinds[-1] == "done" and "progress" in kinds
    (thing,) = good(client.get("/api/state"))["objects"]
    assert thing["seen"] == [[12, 20]] and thing["drawn"] == [20]
    assert client.post("/api/follow", json={"frame": 3, "direction": 1}).status_code == 400
    good(client.post("/api/undo"))  # the whole run at once
    assert good(client.get("/api/state"))["objects"][0]["seen"] == [[20, 20]]


def test_a_box_becomes_a_mask(client, session, labels) -> None:
    good(client.post("/api/objects", json={}))
    rows, columns = np.nonzero(labels[0] == 1)
    box = [columns.min() - 3, rows.min() - 3, columns.max() + 4, rows.max() + 4]
    good(client.post("/api/frames/0/prompt/1", json={"box": [int(n) for n in box]}))
    mask, true = session.project.mask(0, 1), labels[0] == 1
    assert (mask & true).sum() / (mask | true).sum() > 0.8


def test_pictures_are_of_the_proxy_size(client, session, labels) -> None:
    good(client.post("/api/objects", json={}))
    mark(client, 2, 1, labels[2] == 1)
    with Image.open(io.BytesIO(client.get("/api/frames/2").content)) as image:
        assert image.size == SIZE[::-1] and image.format == "JPEG"
    with Image.open(io.BytesIO(client.get("/api/frames/2/masks").content)) as image:
        assert np.array_equal(np.asarray(image), (labels[2] == 1).astype(np.uint8))
    with Image.open(io.BytesIO(client.get("/api/frames/2/masks/1").content)) as image:
        assert np.array_equal(np.asarray(image) > 127, labels[2] == 1)


def hostile(rng: random.Random) -> tuple[str, str, dict, bytes]:
    """One request that must be refused: method, path, headers, body."""
    kind = rng.choice(["token", "host", "origin", "path", "size", "body", "number"])
    headers, body, method = {"X-Token": TOKEN}, b"", rng.choice(["GET", "POST", "PUT", "DELETE"])
    path = rng.choice(["/api/state", "/api/frames/0", "/api/undo", "/api/objects", "/"])
    if kind == "token":
        headers["X-Token"] = rng.choice(["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
    elif kind == "host":
        headers["Host"] = rng.choice(["evil.test", "127.0.0.1", "testserver.evil", "testserver:1"])
    elif kind == "origin":
        headers["Origin"] = rng.choice(
            ["http://evil.test", "null", "https://testserver", "http://testserver:1"]
        )
    elif kind == "path":
        method = "GET"
        path = rng.choice(
            [
                "/../setup.py",
                "/..%2f..%2fetc%2fpasswd",
                "/%2e%2e/annotations.json",
                "/annotations.json",
                "/api/frames/..%2f0",
                "/app.py",
                "/server.py",
                "//etc/passwd",
                "/index.html%00.js",
            ]
        )
    elif kind == "size":
        method, path = "PUT", "/api/frames/0/masks/1"
        headers["Content-Length"] = rng.choice([str(MOST_BYTES + 1), "9" * 20, "-1", "x"])
    elif kind == "body":
        method = "POST"
        path = rng.choice(["/api/objects", "/api/follow", "/api/export", "/api/objects/1"])
        body = rng.choice(
            [
                b"{",
                b"[" * 100_000,
                b"null",
                b"\xff\xfe",
                json.dumps({"name": 5, "frame": "0", "kind": "../x", "action": "x"}).encode(),
                json.dumps({"name": "x" * 300, "frame": 10**12, "kind": []}).encode(),
            ]
        )
    else:
        method, path = (
            "GET",
            rng.choice(
                [
                    "/api/frames/-1",
                    "/api/frames/999999999999",
                    "/api/frames/1e3",
                    "/api/frames/0/masks/x",
                ]
            ),
        )
    return method, path, headers, body


def test_500_hostile_requests(app, session, labels) -> None:
    folder = session.project.folder
    client = TestClient(app, headers={}, raise_server_exceptions=True)
    session.project.add_object("a")
    session.project.draw(0, 1, labels[0] == 1)
    around = {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}
    rng = random.Random(0)
    for _ in range(500):
        method, path, headers, body = hostile(rng)
        answer = client.request(method, path, headers=headers, content=body)
        assert 400 <= answer.status_code < 500, (method, path, headers, body[:50])
        assert b"Traceback" not in answer.content
    now = {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}
    assert now == around  # nothing was written anywhere
    assert client.get("/api/state", headers={"X-Token": TOKEN}).status_code == 200


def test_hostile_sockets(app) -> None:
    client = TestClient(app)
    for query, headers in (
        ("", {}),
        ("?token=x", {}),
        (f"?token={TOKEN}", {"Origin": "http://evil.test"}),
        (f"?token={TOKEN}", {"Host": "evil.test"}),
    ):
        with pytest.raises(WebSocketDisconnect):
            with client.websocket_connect(f"/api/events{query}", headers=headers):
                pass
    with client.websocket_connect(f"/api/events?token={TOKEN}") as socket:
        rng = random.Random(0)
        for _ in range(50):
            socket.send_bytes(rng.randbytes(200))
            socket.send_text("{" * rng.randrange(50))
        assert socket.receive_json()["kind"] == "changed"
    assert client.get("/api/state", headers={"X-Token": TOKEN}).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"GIF89a", png(np.ones((5, 5), bool))[:40], b"\x89PNG\r\n\x1a\n" + b"x" * 50]
)
def test_bad_masks_change_nothing(client, session, body: bytes) -> None:
    session.project.add_object("a")
    revision = session.project.revision
    answer = client.put("/api/frames/0/masks/1", content=body)
    assert answer.status_code == 400
    assert session.project.revision == revision


def test_few_threads_work_for_many_requests(app) -> None:
    """Every thread keeps what it freed of large frames, so their number bounds the memory."""
    before = set(threading.enumerate())
    with TestClient(app, headers={"X-Token": TOKEN}) as client, ThreadPoolExecutor(16) as pool:
        codes = list(
            pool.map(lambda t: client.get(f"/api/frames/{t % FRAMES}").status_code, range(64))
        )
        working = [t for t in set(threading.enumerate()) - before if "AnyIO worker" in t.name]
    assert set(codes) == {200}
    assert 0 < len(working) <= THREADS


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_frames_go_back_to_the_system() -> None:
    def resident_mb() -> float:
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        )

    def decode_and_drop(barrier: threading.Barrier) -> None:
        for _ in range(4):
            np.ones((1080, 1920, 3), np.uint8)
        barrier.wait()

    return_large_blocks()
    before, barrier = resident_mb(), threading.Barrier(9)
    threads = [threading.Thread(target=decode_and_drop, args=(barrier,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while barrier.n_waiting < 8:
        time.sleep(0.01)
    grown = resident_mb() - before  # with all threads alive
    barrier.wait()
    for thread in threads:
        thread.join()
    assert grown < 12  # two frames
