"""The whole system: streams, batches of frames, lazy heads, switches, training items."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch._subclasses.fake_tensor import FakeTensorMode

from vis_projects.config import load_config
from vis_projects.data import build_train_loader
from vis_projects.data.train_loader import build_clip_dataset
from vis_projects.srnet import SRNet
from vis_projects.srnet.model import NetworkOutput
from vis_projects.srnet.targets import (
    HeatMapNoise,
    TrackingPoints,
    at_stride,
    frame_targets,
    training_heat_map,
)
from vis_projects.srnet.track_evidence import TrackEvidence
from vis_projects.structures import ArraySource, Frame, InputError, VideoInfo

QUICKSTART = "configs/srnet/quickstart_synthetic.yaml"
# Random weights find something: a low threshold, no size limit.
FINDS = ("MODEL.SRNET.TEST.MIN_SCORE", "0.05", "MODEL.SRNET.TEST.MIN_AREA", "2")
SMALL = (
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SRNET.DECODER_CHANNELS", "(32, 32, 32, 32)"),
    *("MODEL.SRNET.HEAD_CHANNELS", "16", "MODEL.SRNET.EXTRA_DIMS", "2"),
    *("INPUT.MIN_SIZE_TEST", "0", *FINDS),
)


def build(*opts: object) -> SRNet:
    """A small SRNet with random weights whose embedding varies over the frame."""
    torch.manual_seed(3)
    model = build_model(load_config(QUICKSTART, [*SMALL, *map(str, opts)])).eval()
    for name in ("offset", "bandwidth", "tracking", "category"):
        head = getattr(model.heads, name)
        if head is not None:
            torch.nn.init.normal_(head.out.weight, std=0.5)
    torch.nn.init.normal_(model.heads.objectness.out.weight, std=0.1)
    return model


def clip(frames: int = 7, size: tuple[int, int] = (60, 92)) -> np.ndarray:
    """Bright squares that move over a random background."""
    rng = np.random.default_rng(0)
    h, w = size
    out = np.repeat(rng.integers(0, 90, (1, h, w, 3)), frames, 0)
    for t in range(frames):
        out[t, 8:28, 4 + 4 * t : 28 + 4 * t] = (220, 40, 60)
        out[t, 30:55, 60 - 4 * t : 84 - 4 * t] = (30, 200, 90)
    return out.astype(np.uint8)


def decoded(result) -> dict[int, list]:
    return {t.id: t.masks for t in result.tracks}


def run(model: SRNet, frames: np.ndarray):
    results = []
    video = model.run_video(ArraySource(frames), on_frame=lambda f, r: results.append(r))
    return video, results


@pytest.fixture(scope="module")
def online():
    model = build()
    return model, *run(model, clip())


def test_random_weights_find_something(online):
    _, video, results = online
    assert len(video.tracks) > 1
    assert all(0 <= t.score <= 1 for t in video.tracks)
    assert any(len(r) > 1 for r in results)
    for r in results:
        assert r.instances.pred_masks.sum(0).max() <= 1  # disjoint


def agree(one: list, two: list) -> None:
    """Equal ids; masks equal up to pixels whose probability lies on the threshold.

    Scores are means of objectness in [0, 1]: float32 in another order moves them below 1e-6.
    """
    for a, b in zip(one, two, strict=True):
        assert a.instances.pred_ids.tolist() == b.instances.pred_ids.tolist()
        differing = (a.label_map() != b.label_map()).float().mean()
        assert differing < 1e-3
        torch.testing.assert_close(a.instances.scores, b.instances.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [2, 3, 16])
def test_batches_of_frames_agree_with_online(online, count):
    _, video, results = online
    batched, frames = run(build("MODEL.SRNET.TEST.BATCH_FRAMES", count), clip())
    agree(results, frames)
    assert [t.id for t in batched.tracks] == [t.id for t in video.tracks]
    for a, b in zip(video.tracks, batched.tracks):
        assert a.category == b.category and a.score == pytest.approx(b.score, abs=1e-4)


def test_lazy_heads_agree_with_dense(online):
    agree(online[2], run(build("MODEL.SRNET.TEST.LAZY_HEADS", False), clip())[1])


def test_zero_heat_map_changes_ids_only(online):
    _, results = run(build("MODEL.SRNET.TEST.ZERO_HEATMAP", True), clip())
    for a, b in zip(online[2], results):
        assert torch.equal(a.instances.pred_masks, b.instances.pred_masks)


def test_repeat_frame_is_a_first_frame(online):
    """With REPEAT_FRAME every frame is segmented as if it were the first of its video."""
    _, results = run(build("MODEL.SRNET.TEST.REPEAT_FRAME", True), clip())
    model = online[0]
    for t in (0, 3, 6):
        _, alone = run(model, clip()[t : t + 1])
        assert torch.equal(alone[0].instances.pred_masks, results[t].instances.pred_masks)
    assert any(
        not torch.equal(a.instances.scores, b.instances.scores) for a, b in zip(online[2], results)
    )


@pytest.mark.parametrize("link", ["box_iou", "centre"])
def test_other_links_keep_the_masks(online, link):
    _, results = run(build("MODEL.SRNET.TEST.LINK", link), clip())
    for a, b in zip(online[2], results):
        assert torch.equal(a.instances.pred_masks, b.instances.pred_masks)


def test_fixed_rows_add_only_absent_rows(online):
    """What CUDA runs without synchronisation: the same instances among rows of fixed number."""
    model = build("MODEL.SRNET.TEST.FIXED_ROWS", True)
    model.post_processing.compact = False
    video, results = run(model, clip())
    for a, b in zip(online[2], results):
        rows = b.instances
        assert len(rows) == 20
        present = rows.pred_ids > 0
        assert rows.pred_ids[present].tolist() == a.instances.pred_ids.tolist()
        assert torch.equal(rows.pred_masks[present], a.instances.pred_masks)
        assert not rows.pred_masks[~present].any() and (rows.scores[~present] == 0).all()
    assert decoded(video) == decoded(online[1])


def test_mixed_frame_sizes_are_named():
    model = build("MODEL.SRNET.TEST.BATCH_FRAMES", 4)
    model.start_video(VideoInfo((60, 92)))
    with pytest.raises(InputError, match="begins? with|began with"):
        model.step(Frame(torch.zeros((3, 64, 92), dtype=torch.uint8)))


def test_stride_output_and_other_sizes():
    for output in ("full", "stride"):
        model = build("MODEL.SRNET.TEST.OUTPUT", output, "INPUT.MIN_SIZE_TEST", 48)
        _, results = run(model, clip(2))
        assert any(len(r) for r in results)
        assert all(r.instances.pred_masks.shape[1:] == (60, 92) for r in results)


def test_many_objects_one_pixel_and_nothing():
    model = build("MODEL.SRNET.TEST.MIN_SCORE", 1.0)
    video, results = run(model, clip(1))
    assert video.tracks == [] and len(results[0]) == 0
    with torch.no_grad():
        model.heads.objectness.out.bias.fill_(5.0)
        model.heads.bandwidth.out.bias.fill_(8.0)  # tiny bandwidth: hundreds of seeds
    model.post_processing.rules = type(model.post_processing.rules)(
        min_area=1, max_instances=20, max_seeds=64
    )
    video, results = run(model, clip(2))
    assert len(results[0]) == 20


def test_evidence_on_the_recorded_scene(golden):
    """Class and score of whole tracks, from the recorded sums of every frame."""
    expected = json.loads(golden("srnet/algorithm1.json").read_text())
    evidence, plain = TrackEvidence(), TrackEvidence("obj")
    by_length, frames = TrackEvidence("obj_cls_length"), len(expected["frames"])
    for frame in expected["frames"]:
        rows = frame["instances"]
        columns = (
            torch.tensor([i["id"] for i in rows] + [0]),
            torch.tensor([i["cat_sum"] for i in rows] + [[9.0] * 5]),
            torch.tensor([float(i["area"]) for i in rows] + [3.0]),
            torch.tensor([i["score"] for i in rows] + [1.0]),
        )
        evidence.add(*columns)
        plain.add(*columns)
        by_length.add(*columns)
    for i, track in expected["tracks"].items():
        probabilities = evidence.probabilities(int(i))
        assert int(probabilities.argmax()) == track["category"]
        assert probabilities.max() == pytest.approx(track["category_probability"], abs=1e-4)
        objectness = track["mean_objectness"]
        (score,) = evidence.summarise(int(i)).values()
        assert score == pytest.approx(objectness * track["category_probability"], abs=1e-4)
        present = sum(int(i) == row["id"] for f in expected["frames"] for row in f["instances"])
        assert by_length.summarise(int(i)) == {
            track["category"]: pytest.approx(score * present / frames)
        }
        assert plain.summarise(int(i)) == {track["category"]: pytest.approx(objectness, abs=1e-6)}


# Training -----------------------------------------------------------------------------------------


def frame_of(masks: np.ndarray, ids: list[int], classes: list[int] | None = None) -> Instances:
    n, h, w = masks.shape
    out = Instances((h, w))
    out.gt_masks = BitMasks(torch.from_numpy(masks.astype(bool)))
    out.gt_boxes = Boxes(torch.zeros((n, 4)))
    out.gt_ids = torch.tensor(ids, dtype=torch.int64)
    out.gt_classes = torch.tensor(classes or [0] * n, dtype=torch.int64)
    return out


def boxes(h: int, w: int, *corners: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(corners), h, w), bool)
    for mask, (y0, y1, x0, x1) in zip(masks, corners):
        mask[y0:y1, x0:x1] = True
    return masks


def test_targets_of_a_pair():
    before = frame_of(boxes(32, 64, (4, 12, 8, 16), (16, 28, 40, 60)), [7, 3])
    now = frame_of(
        boxes(32, 64, (16, 28, 36, 56), (4, 12, 12, 20), (30, 31, 62, 63)), [3, 7, 9], [1, 2, 0]
    )
    targets = frame_targets(now, before, (32, 64))
    assert targets.masks.shape == (2, 8, 16)  # the object of one pixel covers no cell
    assert targets.classes.tolist() == [1, 2]
    assert targets.masks.sum((1, 2)).tolist() == [15, 4]
    assert targets.centres.tolist() == [[11.0, 5.0], [3.5, 1.5]]
    assert targets.previous.tolist() == [[12.0, 5.0], [2.5, 1.5]]
    assert targets.in_both.tolist() == [True, True]
    first = frame_targets(now, before, (32, 64), first=True)
    assert not first.in_both.any()
    gone = frame_targets(now, before[torch.tensor([0])], (32, 64))
    assert gone.in_both.tolist() == [False, True]
    valid = torch.ones((32, 64), dtype=torch.bool)
    valid[:, 30:] = False
    cut = frame_targets(now, before, (32, 96), valid=valid, learn_background=False)
    assert cut.masks.shape == (1, 8, 24) and torch.equal(cut.obj_valid, cut.masks[0])
    assert not cut.valid[:, 8:].any()


def test_tracking_points_follow_the_sides():
    now = frame_of(boxes(32, 64, (0, 16, 0, 64), (16, 32, 0, 8)), [1, 2])
    torch.manual_seed(0)
    targets = frame_targets(now, now, (32, 64), points=TrackingPoints(2000, 0.1))
    deviation = (targets.around - targets.centres[:, None]).square().mean(1).sqrt()
    expected = torch.tensor([[1.6, 0.4], [0.2, 0.4]])
    torch.testing.assert_close(deviation, expected, rtol=0.05, atol=0)
    assert frame_targets(now, now, (32, 64)).around is None


def test_snapped_centres_lie_on_the_mask():
    ring = boxes(32, 64, (0, 32, 0, 32))
    ring[0, 8:24, 8:24] = False
    now = frame_of(ring, [1])
    assert frame_targets(now, now, (32, 64)).centres.tolist() == [[3.5, 3.5]]
    snapped = frame_targets(now, now, (32, 64), snap=True)
    assert snapped.centres.tolist() == snapped.previous.tolist() == [[3.0, 1.0]]
    drawn = training_heat_map(now, (32, 64), HeatMapNoise(0.0, 0.0, 0.0), snap=True)
    assert (drawn == 1).nonzero().tolist() == [[0, 1, 3]]


def test_cells_of_disjoint_masks_are_disjoint():
    labels = torch.randint(0, 4, (40, 64), generator=torch.Generator().manual_seed(1))
    cells = at_stride(torch.stack([labels == i for i in range(4)]), (64, 96))
    assert cells.shape == (4, 16, 24) and cells.sum(0).max() <= 1
    assert not cells[:, 10:].any() and not cells[:, :, 16:].any()


def test_heat_map_of_a_pair_without_noise():
    before = frame_of(boxes(32, 64, (4, 12, 8, 16), (0, 1, 0, 1)), [7, 8])
    quiet = HeatMapNoise(0.0, 0.0, 0.0)
    drawn = training_heat_map(before, (32, 64), quiet)
    assert drawn.shape == (1, 8, 16)
    assert (drawn == 1).nonzero().tolist() == [[0, 2, 3]]  # (2.5, 1.5) rounds up
    empty = frame_of(np.zeros((0, 32, 64)), [])
    assert training_heat_map(empty, (32, 64), quiet).sum() == 0


def item(now: Instances, before: Instances, **more: object) -> dict:
    h, w = now.image_size
    images = [torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for _ in range(2)]
    return {"image": images, "instances": [before, now], "frame_indices": [3, 4], **more}


def training_model(*opts: object) -> SRNet:
    return build(*opts).train()


def test_losses_of_degenerate_pairs():
    model = training_model("MODEL.SRNET.FIRST_FRAME_PROB", 0.0)
    nothing = frame_of(np.zeros((0, 48, 80)), [])
    some = frame_of(boxes(48, 80, (8, 30, 10, 40)), [1])
    pixel = frame_of(boxes(48, 80, (5, 6, 5, 6)), [1])
    many = frame_of(
        boxes(
            48,
            80,
            *[(8 * (k // 6), 8 * (k // 6) + 8, 12 * (k % 6), 12 * (k % 6) + 12) for k in range(30)],
        ),
        list(range(1, 31)),
    )
    valid = [torch.ones((48, 80), dtype=torch.bool), torch.zeros((48, 80), dtype=torch.bool)]
    for pair in (
        item(nothing, nothing),
        item(some, nothing),
        item(nothing, some),
        item(pixel, some),
        item(many, many),
        item(some, some, valid=valid),
        item(some, some, dataset="davis_2019_train"),
    ):
        losses = model([pair])
        assert set(losses) == {
            "loss_iou",
            "loss_smooth",
            "loss_track",
            "loss_objectness",
            "loss_category",
        }
        assert all(torch.isfinite(v) and v.ndim == 0 for v in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_first_frame_rule_and_previous_gradient():
    some = frame_of(boxes(48, 80, (8, 30, 10, 40)), [1])
    model = training_model("MODEL.SRNET.FIRST_FRAME_PROB", 1.0).eval()
    pair = item(some, some)
    losses = model.losses([pair])
    assert losses["loss_track"] == 0
    changed = dict(pair, image=[255 - pair["image"][0], pair["image"][1]])
    again = model.losses([changed])
    assert all(torch.equal(losses[k], again[k]) for k in losses)  # frame t - 1 is not looked at

    model = training_model("MODEL.SRNET.FIRST_FRAME_PROB", 0.0).eval()
    assert model.losses([pair])["loss_track"] > 0
    assert not torch.equal(model.losses([pair])["loss_iou"], model.losses([changed])["loss_iou"])

    def slope(previous_grad: bool) -> torch.Tensor:
        model.previous_grad = previous_grad
        model.zero_grad()
        torch.manual_seed(0)
        sum(model.losses([pair]).values()).backward()
        return model.backbone.bottom_up.stem.weight.grad.clone()

    assert not torch.allclose(slope(True), slope(False))


def test_the_tracking_head_trains_alone():
    """From a finished model: nothing else has a gradient or moves, batch norms included."""
    opts = ["MODEL.SRNET.TRACKING_ONLY", "True", "MODEL.DEVICE", "cpu"]
    cfg = load_config("configs/srnet/quickstart_synthetic.yaml", opts)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    losses = model([build_clip_dataset(cfg)[0]])
    assert list(losses) == ["loss_track"]
    losses["loss_track"].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("heads.tracking.") for k in moved)


def test_wrong_number_of_frames_is_named():
    some = frame_of(boxes(48, 80, (8, 30, 10, 40)), [1])
    pair = item(some, some)
    pair["image"] = pair["image"][:1]
    with pytest.raises(InputError, match="INPUT.SAMPLER.NAME consecutive"):
        training_model()([pair])


def test_synthetic_pairs_are_consecutive_frames():
    cfg = load_config(QUICKSTART, ["SOLVER.IMS_PER_BATCH", "2", "MODEL.SRNET.HEAD_CHANNELS", "8"])
    batch = next(iter(build_train_loader(cfg)))
    for entry in batch:
        a, b = entry["frame_indices"]
        assert 1 <= abs(a - b) <= cfg.INPUT.SAMPLER.MAX_GAP
    losses = build_model(cfg).train()(batch)
    assert all(torch.isfinite(v) for v in losses.values())


# CUDA ---------------------------------------------------------------------------------------------


def test_whole_step_traces_on_a_pretended_gpu():
    """Network, lazy heads and Algorithm 1 on CUDA tensors without values: nothing is read back."""
    fixed = ("MODEL.SRNET.TEST.FIXED_ROWS", "True", "MODEL.SRNET.TEST.MAX_SEEDS", "3")
    cfg = load_config(QUICKSTART, [*SMALL, *fixed])
    cfg.MODEL.DEVICE = "cuda"  # pretended: no command would take it
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = SRNet(cfg).eval()
        model.begin(VideoInfo((90, 150)))
        for index in range(2):
            images = torch.randn(1, 3, 96, 160)
            features = model.backbone(images)
            x = model.decoder(features, features["p5"])
            raw = {name: value[0] for name, value in model.heads(x, lazy=True).items()}
            maps = model._head_maps(NetworkOutput(x[0], raw, (96, 150)))
            out = model.post_processing(maps)
            model._heat_map = out.heat_map
            masks = model.post_processing.full_size(maps, out.clusters, (96, 150), (90, 141))
            model._keep_evidence = False  # its copies are read frames later, after an event
            result = model._frame_result(out, masks, index)
            assert result.instances.pred_masks.shape == (20, 90, 141) and masks.is_cuda


@pytest.mark.gpu
def test_step_does_not_synchronise(online):
    model = build("MODEL.DEVICE", "cuda", "MODEL.SRNET.TEST.FIXED_ROWS", True)
    frames = list(ArraySource(clip()))
    model.start_video(VideoInfo((60, 92), keep_results=False))
    model.step(frames[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for frame in frames[1:]:
            model.step(frame)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    model.reset()


@pytest.mark.gpu
def test_cuda_agrees_with_cpu(online):
    _, results = run(build("MODEL.DEVICE", "cuda"), clip())
    for a, b in zip(online[2], results):
        assert (a.label_map() != b.label_map().cpu()).float().mean() < 0.01
