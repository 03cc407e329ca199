"""FRTM as a system: degenerate input, presets, propagator, converter."""

from __future__ import annotations

import fill
import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch.utils._python_dispatch import TorchDispatchMode

from vis_projects.config import load_config, shipped_configs
from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.convert import convert, depth_of
from vis_projects.frtm.model import FRTM
from vis_projects.frtm.propagator import FRTMPropagator
from vis_projects.frtm.segmentation_network import SegmentationNetwork
from vis_projects.modeling import build_propagator
from vis_projects.structures import ArraySource, Frame, InputError, VideoInfo, decode_mask

from .tiny_frtm import SIZE, TINY, clip, tiny

ROWS = [p for p in shipped_configs("frtm") if "trunk" not in p.name]


@pytest.fixture(scope="module")
def model() -> FRTM:
    return tiny()


def run(model: FRTM, images: np.ndarray, masks):
    return model.run_video(ArraySource(images, size=SIZE, image_format=model.input_format), masks)


def ids(result) -> list[int]:
    return [t.id for t in result.tracks]


# What masks may be -------------------------------------------------------------------------------


def test_empty_mask_is_skipped_and_told(model, caplog):
    images, labels = clip()
    with caplog.at_level("WARNING"):
        result = run(model, images, {0: {1: labels[0] == 1, 2: np.zeros(SIZE, bool)}})
    assert "mask of object 2 is empty" in caplog.text
    assert ids(result) == [1]
    assert run(model, images, {0: np.zeros(SIZE, np.uint8)}).tracks == []


def test_object_whose_mask_was_empty_may_enter_later(model):
    images, labels = clip(2)
    first = {1: labels[0] == 1, 2: np.zeros(SIZE, bool)}
    result = run(model, images, {0: first, 2: {2: labels[2] == 2}})
    assert result.tracks[1].masks[:2] == [None, None]
    assert (decode_mask(result.tracks[1].masks[2]) == (labels[2] == 2)).all()


def test_mask_that_fills_the_frame(model):
    images, _ = clip()
    result = run(model, images, {0: np.ones(SIZE, np.uint8)})
    assert decode_mask(result.tracks[0].masks[0]).all()
    model.begin(VideoInfo(SIZE))
    model.segment(Frame(torch.from_numpy(images[0]).permute(2, 0, 1)), np.ones(SIZE, np.uint8))
    assert torch.isfinite(model.tracker.targets[0].model.filter).all()


def test_mask_of_few_pixels(model):
    images, labels = clip()
    speck = np.zeros(SIZE, np.uint8)
    speck[0, 0] = 3
    assert ids(run(model, images, {0: speck})) == [3]


@pytest.mark.parametrize("shape", [(32, 40), (80, 64), (64, 80, 3)])
def test_mask_of_another_size(model, shape):
    images, _ = clip()
    with pytest.raises(InputError, match="frame 0.*64x80"):
        run(model, images, {0: np.ones(shape, np.uint8)})
    with pytest.raises(InputError, match="object 4.*64x80"):
        run(model, images, {0: {4: np.ones(shape, bool)}})


def test_ids_must_be_positive(model):
    images, labels = clip()
    with pytest.raises(InputError, match="positive"):
        run(model, images, {0: {0: labels[0] > 0}})


def test_no_mask_at_all_has_no_tracks(model):
    images, _ = clip()
    result = run(model, images, {})
    assert result.tracks == [] and result.length == len(images)


def test_single_image_names_the_way(model):
    with pytest.raises(InputError, match=r"VideoPredictor\.start\(masks="):
        model([{"image": torch.zeros(3, *SIZE)}])


def test_more_than_twenty_objects_equal_few_at_a_time():
    """Any number of objects; how many go through the networks together changes nothing."""
    images = fill.frames(1, 3, *SIZE).copy()
    first = np.zeros(SIZE, np.uint8)
    for i in range(24):
        first[2 + 15 * (i // 6) : 12 + 15 * (i // 6), 1 + 13 * (i % 6) : 11 + 13 * (i % 6)] = i + 1
    masks = torch.stack([torch.from_numpy(first == i) for i in range(1, 25)])
    frames = [Frame(torch.from_numpy(i).permute(2, 0, 1), t) for t, i in enumerate(images)]
    mild = (
        *("MODEL.FRTM.TARGET_DTYPE", "float64", "MODEL.FRTM.TARGET.INIT_STEPS", "(2,)"),
        *("MODEL.FRTM.TARGET.FILTER_REG", "(0.5, 5.0)"),
        *("MODEL.FRTM.TARGET.PRECONDITION", "(0.25, 10.0)"),
    )
    results = []
    for batch in (1, 50):
        one = tiny("MODEL.FRTM.OBJECTS_PER_BATCH", batch, *mild)
        one.begin(VideoInfo(SIZE))
        with torch.no_grad():
            one.tracker.step(frames[0], range(1, 25), masks)
            results.append(one.tracker.look(frames[1]).probabilities)
        assert one.tracker.step(frames[2]).shape == (25, *SIZE)
    # the filters are float64; the network behind them is float32, probabilities in [0, 1]
    assert (results[0] - results[1]).abs().max() < 1e-4


def test_overlapping_masks_and_known_ids(model):
    images, labels = clip()
    both = {1: np.ones(SIZE, bool), 2: labels[0] == 1}
    result = run(model, images, {0: both, 1: {1: np.ones(SIZE, bool)}})
    assert ids(result) == [1, 2]
    assert (decode_mask(result.tracks[1].masks[0]) == (labels[0] == 1)).all()
    assert (decode_mask(result.tracks[0].masks[0]) == (labels[0] == 0)).all()
    assert decode_mask(result.tracks[0].masks[1]).all()  # a correction
    assert result.tracks[1].masks[1] is None


def test_ids_follow_objects_not_the_order_of_their_start(model):
    """The authors' code swaps the ids of objects that start against the order of their ids."""
    images, labels = clip(2)
    result = run(model, images, {0: {9: labels[0] == 1}, 2: {3: labels[2] == 2}})
    masks = {t.id: t.masks for t in result.tracks}
    assert masks[3][0] is None and masks[9][0] is not None
    assert (decode_mask(masks[3][2]) == (labels[2] == 2)).all()
    assert list(next(iter(result.label_maps()))[labels[0] == 1][:1]) == [9]


def test_memory_of_three_objects_is_bounded(model):
    images, labels = clip(3, 4)
    model.begin(VideoInfo(SIZE))
    sizes = []
    for t in range(14):
        frame = Frame(torch.from_numpy(images[t % 4]).permute(2, 0, 1), t)
        with torch.no_grad():
            model.segment(frame, labels[0] if t == 0 else None)
        memory = model.tracker.targets[0].memory
        tensors = [memory.features, memory.couplings, memory.pull, memory.energy]
        sizes.append(sum(v.untyped_storage().nbytes() for v in tensors))
        assert memory.filled <= 6
    assert len(set(sizes)) == 1


class NoSynchronisation(TorchDispatchMode):
    """Raises where a device would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_frame_without_new_objects_never_waits_for_the_device(model, monkeypatch):
    # the official one reads a size on the host: the system must do without it
    monkeypatch.setattr(ImageList, "from_tensors", None)
    images, labels = clip(2, 6)
    frames = [Frame(torch.from_numpy(i).permute(2, 0, 1), t) for t, i in enumerate(images)]
    model.begin(VideoInfo(SIZE))
    model.segment(frames[0], labels[0])
    with NoSynchronisation():
        for frame in frames[1:]:  # updates included
            model.segment(frame)


@pytest.mark.parametrize("opts,message", [
    (("MODEL.FRTM.TARGET_MODEL", "magic"), "TARGET_MODEL"),
    (("MODEL.FRTM.MERGE_PASSES", 3), "MERGE_PASSES"),
    (("MODEL.FRTM.HEAD_RESIZE", "cubic"), "HEAD_RESIZE"),
    (("MODEL.FRTM.TARGET.CG_VARIANT", "newton"), "CG_VARIANT"),
    (("MODEL.FRTM.TARGET.SAMPLES", 7), "CAPACITY"),
    (("MODEL.FRTM.DEPTH", 20), "depth 20"),
    (("MODEL.FRTM.BACKBONE_WEIGHTS", "no/such.pth"), "no/such.pth"),
    (("MODEL.FRTM.TRAINING.CACHE_DIR", "x", "INPUT.AUGMENTATIONS.FLIP_PROB", 0.5), "CACHE_DIR"),
    (("MODEL.FRTM.SEGMENTATION", False, "MODEL.FRTM.TARGET_MODEL", "encoder"), "SEGMENTATION"),
])  # fmt: skip
def test_bad_options_are_named(opts, message):
    with pytest.raises(ValueError, match=message):
        tiny(*opts)


# Rows of the tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROWS, ids=lambda p: p.stem)
def test_config_files(path):
    cfg = load_config(path)
    assert cfg.INPUT.FORMAT == "RGB"
    if path.stem.startswith("Base"):
        return
    frtm = cfg.MODEL.FRTM
    depth = 18 if any(w in path.stem for w in ("R18", "quickstart", "lite0")) else 101
    assert depth == frtm.DEPTH
    full = depth == 101 or "lite0" in path.stem  # chosen for lite0 on held-out stills
    assert tuple(frtm.TARGET.INIT_STEPS) == (5, 10, 10, 10) + (10,) * full
    youtube = "ytvos" in path.stem or path.parent.name == "ablations"
    assert (1 if youtube else 2) == frtm.MERGE_PASSES
    assert ("grey" if youtube else "telea") == frtm.TARGET.FILL


@pytest.mark.parametrize("name", ["base_net", "fine_tuning", "d_only", "d_only_no_update",
                                  "no_update"])  # fmt: skip
def test_ablations_run(name):
    opts = (
        *("MODEL.FRTM.BACKBONE_WEIGHTS", "", "MODEL.FRTM.DEPTH", 18),
        *("MODEL.FRTM.FINE_TUNING.ITERATIONS", 2, "MODEL.FRTM.FINE_TUNING.SAMPLES", 4),
    )
    interval = load_config(f"configs/frtm/ablations/{name}.yaml").MODEL.FRTM.UPDATE_INTERVAL
    model = tiny(
        *opts, "MODEL.FRTM.UPDATE_INTERVAL", interval, config=f"configs/frtm/ablations/{name}.yaml"
    )
    images, labels = clip(2, 4)
    result = run(model, images, {0: labels[0]})
    assert ids(result) == [1, 2]
    assert result.length == 4
    if name.startswith("d_only"):
        assert model.refiner is None and not model.trainable
        with pytest.raises(InputError, match="nothing to train"):
            model.losses([])


# Propagator --------------------------------------------------------------------------------------


def test_propagator_equals_the_model(model):
    """Committing the prediction as it is gives exactly what FRTM itself does."""
    images, labels = clip(2, 6)
    wanted = list(label_maps(model, images, {0: labels[0]}))
    propagator = FRTMPropagator(model=model)
    propagator.reset(SIZE)
    got = []
    for t, image in enumerate(images):
        frame = Frame(torch.from_numpy(image).permute(2, 0, 1), t)
        if t == 0:
            propagator.commit(torch.from_numpy(labels[0]), [1, 2], frame=frame)
            got.append(labels[0])
            continue
        said = propagator.predict(frame)
        assert said.ids == [1, 2] and said.probabilities.shape == (3, *SIZE)
        propagator.commit(said.label_map)
        got.append(said.label_map.numpy())
    assert all((a == b).all() for a, b in zip(got, wanted))


def label_maps(model, images, masks):
    return run(model, images, masks).label_maps()


def test_propagator_learns_from_corrections(model):
    images, labels = clip(2, 4)
    propagator = FRTMPropagator(model=model)
    frames = [Frame(torch.from_numpy(i).permute(2, 0, 1), t) for t, i in enumerate(images)]
    propagator.reset(SIZE)
    nothing = propagator.predict(frames[0])
    assert nothing.ids == [] and (nothing.label_map == 0).all()
    assert nothing.probabilities.shape == (1, *SIZE)
    first = torch.from_numpy(labels[0]).long()
    propagator.commit(torch.where(first == 1, 1, 0), [1])
    before = propagator.predict(frames[1])
    again = propagator.predict(frames[1])  # predicting changes nothing
    assert torch.equal(before.label_map, again.label_map)
    corrected = torch.from_numpy(labels[1]).long() * 7  # ids 7 and 14; 1 is gone
    propagator.commit(corrected, [7, 14])
    assert propagator.predict(frames[2]).ids == [1, 7, 14]
    with pytest.raises(RuntimeError, match="frame="):
        propagator.reset(SIZE)
        propagator.commit(first, [1])


def test_propagator_is_registered(model):
    cfg = load_config(
        "configs/frtm/quickstart_synthetic.yaml", [*TINY, "MODEL.PROPAGATOR.NAME", "FRTMPropagator"]
    )
    propagator = build_propagator(cfg)
    assert set(propagator.state_dict()) == set(model.state_dict())
    assert not propagator.train().backbone.training


# Weights -----------------------------------------------------------------------------------------


def test_converter(tmp_path):
    backbone, network = ResNetFeatures(18), None
    network = SegmentationNetwork(backbone.channels)
    official = {f"refiner.{k}": v for k, v in network.state_dict().items()}
    imagenet = {**backbone.state_dict(), "fc.weight": torch.zeros(2, 2)}
    assert depth_of(official) == 18
    file = {"model": official, "epoch": 3, "optimizer": {}}
    out = convert(file, backbone=imagenet)
    model = tiny()
    model.load_state_dict(out)
    assert set(convert(official)) == set(official)
    assert set(convert(imagenet)) == {k for k in model.state_dict() if k.startswith("backbone")}
    with pytest.raises(InputError, match="not a checkpoint of FRTM"):
        convert({"a": torch.zeros(1)})
    with torch.device("meta"):
        other = ResNetFeatures(101).state_dict()
    with pytest.raises(InputError, match="do not fit"):
        convert(official, backbone=other)
    path = tmp_path / "resnet.pth"
    torch.save(imagenet, path)
    loaded = tiny("MODEL.FRTM.BACKBONE_WEIGHTS", str(path))
    assert torch.equal(loaded.backbone.conv1.weight, backbone.conv1.weight)
    with pytest.raises(InputError, match="ResNet-34"):
        tiny("MODEL.FRTM.BACKBONE_WEIGHTS", str(path), "MODEL.FRTM.DEPTH", 34)
