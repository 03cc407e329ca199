"""A VIS or UVOS system on the page: its tracks are proposals, which a person accepts, renames,
deletes and corrects. The networks are small and untrained."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from annotated_clip import FRAMES, SIZE
from PIL import Image

pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from starlette.testclient import TestClient

from vis_projects import load_config
from vis_projects.annotate.server import create_app
from vis_projects.annotate.session import Session
from vis_projects.structures import VideoResult
from vis_projects.video import VideoPredictor, proposals

TOKEN = "secret-token"
ANY = ["MODEL.ALLOW_MISSING_WEIGHTS", "True", "MODEL.DEVICE", "cpu"]
# Everything that the untrained network sees is a track.
SYSTEMS = {
    "vis": (
        "configs/quickstart.yaml",
        [*ANY, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0", "MODEL.CROSSVIS.TRACKER.MAX_TRACKS", "5"],
    ),
    "uvos": (
        "configs/srnet/quickstart_synthetic.yaml",
        [*ANY, "MODEL.SRNET.NUM_CLASSES", "0", "MODEL.SRNET.TEST.MIN_SCORE", "0.0"],
    ),
}


def proposer(kind: str) -> VideoPredictor:
    config, options = SYSTEMS[kind]
    predictor = VideoPredictor(load_config(config, options))
    predictor.model.drawn_above = 0.0
    return predictor


@pytest.mark.parametrize("kind", list(SYSTEMS))
def test_proposals_are_accepted_renamed_deleted_and_corrected(kind: str, clip: Path) -> None:
    session = Session(clip, predictor=lambda: proposer(kind))
    app = create_app(session, token=TOKEN, hosts={"testserver"})
    client = TestClient(app, headers={"X-Token": TOKEN})

    def objects() -> dict[int, dict]:
        return {o["id"]: o for o in client.get("/api/state").json()["objects"]}

    def act(object_id: int, **body: object) -> None:
        answer = client.post(f"/api/objects/{object_id}", json=body)
        assert answer.status_code == 200, answer.text

    with client.websocket_connect(f"/api/events?token={TOKEN}") as socket:
        assert client.post("/api/propose").status_code == 200
        events = [socket.receive_json()]
        while events[-1]["kind"] not in ("done", "failed"):
            events.append(socket.receive_json())
    assert events[-1]["kind"] == "done" and events[-1]["frames"] == FRAMES
    assert sum(e["kind"] == "progress" and "done" in e for e in events) == FRAMES
    session.follower.wait()
    found = objects()
    assert len(found) >= 3
    assert all(o["proposal"] and 0 <= o["score"] <= 1 and o["seen"] for o in found.values())
    seen = [i for i in found if found[i]["seen"][0][0] == found[1]["seen"][0][0]]
    shown = session.project.label_map(found[1]["seen"][0][0])
    masks = {i: session.project.mask(found[1]["seen"][0][0], i) for i in seen}
    best = max(seen, key=lambda i: found[i]["score"])
    assert np.array_equal(shown == best, masks[best])  # the better score lies on top
    first, second, third, *_ = found

    act(first, action="accept")
    act(second, action="rename", name="mine")
    act(third, action="delete", **{"from": 0})
    t = found[first]["seen"][0][0]
    corrected = np.zeros(SIZE, bool)
    corrected[10:40, 20:60] = True
    out = io.BytesIO()
    Image.fromarray(corrected.astype(np.uint8) * 255).save(out, format="PNG")
    put = client.put(f"/api/frames/{t}/masks/{first}", content=out.getvalue())
    assert put.status_code == 200
    now = objects()
    assert not now[first]["proposal"] and now[first]["drawn"] == [t]
    assert not now[second]["proposal"] and now[second]["name"] == "mine"
    assert third not in now
    assert all(now[i]["proposal"] for i in now if i not in (first, second))

    assert client.post("/api/export", json={"kind": "ytvis"}).status_code == 200
    exported = VideoResult.load(session.project.folder / "exports" / "ytvis")
    labels = exported.to_labels()
    assert np.array_equal(labels[t] == first, corrected)
    session.close()
    again = Session(clip)
    assert {i: thing.proposal for i, thing in again.project.objects.items()} == {
        i: o["proposal"] for i, o in now.items()
    }
    again.close()


def test_without_a_system_that_finds_objects_the_page_says_what_to_do(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "zoo_entries", dict)
    config = "configs/copy_first/davis2017.yaml"
    session = Session(clip, predictor=lambda: VideoPredictor(config, device="cpu"))
    told: list[dict] = []
    session.tell = told.append
    session.follower.propose()
    session.follower.wait()
    assert told[-1]["kind"] == "failed" and "lite0_stills.yaml" in told[-1]["reason"]
    session.close()
