"""The loss of a clip: labels, sequences, degenerate clips."""

from __future__ import annotations

from pathlib import Path

import fill
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from vis_projects.cfbi.model import CFBI
from vis_projects.cfbi.network import CFBINetwork
from vis_projects.cfbi.preprocess import CFBIPreprocess
from vis_projects.cfbi.training import IGNORE, SequenceLoss, clip_labels
from vis_projects.config import load_config
from vis_projects.engine.solver import build_lr_scheduler, build_optimizer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frame(ids: list[int], size: tuple[int, int] = (33, 49)) -> Instances:
    """Objects as vertical stripes, each at its own place."""
    masks = torch.zeros(len(ids), *size, dtype=torch.bool)
    for row, i in enumerate(ids):
        masks[row, 4:20, 5 * i : 5 * i + 5] = True
    instances = Instances(size)
    instances.gt_ids = torch.tensor(ids, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    return instances


def item(frames: list[list[int]]) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 255, (3, 33, 49), generator=generator, dtype=torch.uint8) for _ in frames
    ]
    return {"image": images, "instances": [frame(ids) for ids in frames]}


def test_labels_of_a_clip() -> None:
    valid = [torch.ones(33, 49, dtype=torch.bool) for _ in range(3)]
    valid[2][-3:] = False
    labels, objects = clip_labels([frame([4, 2]), frame([2]), frame([4, 6])], valid)
    assert objects == 3  # 2 and 4; object 6 was not introduced
    assert labels[0, 5, 11] == 1
    assert labels[0, 5, 21] == 2
    assert labels[2, 5, 31] == 0
    assert (labels[2, -3:] == IGNORE).all()


@pytest.fixture(scope="module")
def network() -> CFBINetwork:
    torch.manual_seed(0)
    return CFBINetwork(depth=18, width=32, embedding_dim=16, head_width=32, norm="BN")


@pytest.mark.parametrize(
    "frames",
    [[[1, 2], [1, 2], [1], [2]], [[], [], []], [[1], []], [[1]]],
    ids=["objects", "none", "two frames", "one frame"],
)
@pytest.mark.parametrize("sequential_from", [0, 100])
def test_every_clip_has_a_finite_loss(network, frames, sequential_from: int) -> None:
    loss = SequenceLoss(sequential_from=sequential_from)
    value = loss(network, CFBIPreprocess(MEAN, STD), [item(frames)])["loss_seg"]
    assert value.isfinite()
    value.backward()
    assert int(loss.step) == 1


class Recorded(torch.nn.Module):
    """A network that notes which previous mask it was given."""

    def __init__(self, network: CFBINetwork) -> None:
        super().__init__()
        self.network = network
        self.previous: list[torch.Tensor] = []
        self.embed = network.embed

    def forward(self, current, references, previous, objects):
        self.previous.append(previous[1])
        return self.network(current, references, previous, objects)


def test_all_current_frames_are_trained_from_the_first_step(network) -> None:
    """Before sequences begin the previous mask is the true one, then the prediction."""
    network.eval()
    clip = item([[1, 2], [1, 2], [1], [1, 2], [2]])
    labels, _ = clip_labels(clip["instances"])
    preprocess = CFBIPreprocess(MEAN, STD)
    seen = Recorded(network)
    total = SequenceLoss(sequential_from=100)(seen, preprocess, [clip])["loss_seg"]
    assert len(seen.previous) == 3
    assert all(torch.equal(p, labels[t]) for p, t in zip(seen.previous, (1, 2, 3)))
    single = []
    for t in (2, 3, 4):  # a clip of a single current frame, and the true mask before it
        part = {k: [clip[k][0], clip[k][t - 1], clip[k][t]] for k in ("image", "instances")}
        part["instances"][1] = clip["instances"][t - 1]
        single.append(SequenceLoss(sequential_from=0)(network, preprocess, [part])["loss_seg"])
    assert torch.allclose(total, torch.stack(single).mean(), atol=1e-5)

    seen = Recorded(network)
    SequenceLoss(sequential_from=0)(seen, preprocess, [clip])
    assert torch.equal(seen.previous[0], labels[1])
    assert not torch.equal(seen.previous[1], labels[2])


@torch.no_grad()
def test_recorded_frames_in_the_loss(filled_network, golden) -> None:
    """Two current frames with true previous masks, from the released network's probabilities."""
    data = np.load(golden("cfbi/network_clip.npz"))
    maps = [torch.from_numpy(data[f"label_{t}"].astype(np.int64)) for t in range(3)]
    maps[2][maps[2] == 3] = 0  # it enters after the arg-max
    frames = torch.from_numpy(fill.frames(11, 3, 129, 161)[..., ::-1].copy()).permute(0, 3, 1, 2)
    order = (0, 0, 1, 2)
    instances = []
    for t in order:
        some = Instances((129, 161))
        some.gt_ids = torch.tensor([1, 2])
        some.gt_masks = BitMasks(torch.stack([maps[t] == 1, maps[t] == 2]))
        instances.append(some)
    clip = {"image": [frames[t] for t in order], "instances": instances}
    found = SequenceLoss()(filled_network, CFBIPreprocess(MEAN, STD), [clip])["loss_seg"]
    wanted = [
        -torch.from_numpy(data[f"prob_{t}"]).gather(0, maps[t][None]).clamp(min=1e-9).log().mean()
        for t in (1, 2)
    ]
    # Probabilities agree to 2e-4; where one is small its logarithm magnifies that.
    assert abs(found - torch.stack(wanted).mean()) < 1e-3


def test_at_most_five_objects() -> None:
    frames = [frame(list(range(1, 9)))] * 3
    labels, objects = clip_labels(frames, max_objects=5, seed=3)
    assert objects == 6 and set(labels.unique().tolist()) == set(range(6))
    again, _ = clip_labels(frames, max_objects=5, seed=3)
    assert torch.equal(labels, again)
    assert any(
        not torch.equal(labels, clip_labels(frames, max_objects=5, seed=s)[0]) for s in range(4)
    )


REAL = sorted(Path("configs/cfbi").glob("R101_*.yaml"))


@pytest.mark.parametrize("config", REAL, ids=lambda f: f.stem)
def test_real_configs_train_as_published(config: Path) -> None:
    cfg = load_config(config, ["SOLVER.MAX_ITER", "30000"])
    options = CFBI.from_config(cfg.clone())
    loss = options["loss"]
    assert (loss.sequential_from, loss.mining_steps, loss.max_objects) == (15000, 15000, 5)
    assert cfg.SOLVER.NESTEROV and cfg.SOLVER.WEIGHT_DECAY_NORM == cfg.SOLVER.WEIGHT_DECAY
    assert cfg.SOLVER.BASE_LR_END == 1e-5 and cfg.INPUT.AUGMENTATIONS.CROP.MIN_PIXELS == 100
    start = cfg.MODEL.WEIGHTS
    made_by = {str(load_config(f).OUTPUT_DIR): f.name for f in REAL}
    if start.endswith(".pth.tar"):
        assert Path(start).name == "resnet101-deeplabv3p.pth.tar"
    else:  # a model that another configuration makes
        folder, file = start.rsplit("/", 1)
        assert file == "model_final.pth" and made_by[folder] != config.name
    if "davis" in config.name and cfg.MODEL.CFBI.SCALES != (1.0,):
        assert cfg.MODEL.CFBI.SCALES == (2.0, 2.15, 2.3) and cfg.MODEL.CFBI.FLIP


@pytest.mark.parametrize("config", REAL, ids=lambda f: f.stem)
def test_the_optimiser_is_the_published_one(config: Path) -> None:
    """What the trainer builds: Nesterov, decay on group norms too, a rate that ends at 1e-5."""
    cfg = load_config(config)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.GroupNorm(2, 4))
    optimiser = build_optimizer(cfg, layers)
    assert isinstance(optimiser, torch.optim.SGD)
    grouped = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    for parameter in layers.parameters():
        group = grouped[id(parameter)]
        assert group["nesterov"] and group["momentum"] == 0.9
        assert group["weight_decay"] == pytest.approx(1.5e-4)
    scheduler = build_lr_scheduler(cfg, optimiser)
    rates = [cfg.SOLVER.BASE_LR * scheduler._multiplier(k / 1000) for k in range(1001)]
    assert rates[-1] == pytest.approx(1e-5) and min(rates[100:]) >= 1e-5 * (1 - 1e-9)


def test_sequence_is_the_mean_of_its_frames(network) -> None:
    """A sequence with one current frame is that frame by itself."""
    network.eval()
    clip = item([[1, 2], [1, 2], [1, 2]])
    one, whole = (
        SequenceLoss(sequential_from=start)(network, CFBIPreprocess(MEAN, STD), [clip])
        for start in (100, 0)
    )
    assert torch.equal(one["loss_seg"], whole["loss_seg"])


def test_half_precision_spares_the_distances(network) -> None:
    """Under autocast a clip trains, and matching is what it is without."""
    loss = SequenceLoss(sequential_from=0)
    clip = item([[1, 2], [1, 2], [1, 2]])
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(network, CFBIPreprocess(MEAN, STD), [clip, clip])["loss_seg"]
    value.backward()
    assert value.isfinite()
    first, second = network.embed(torch.randn(2, 3, 33, 49))
    labels = torch.zeros(33, 49, dtype=torch.int64)
    labels[:20, :20] = 1
    pixels = network.collect([(first, labels)], 2)
    plain = network.prehead_input(second, pixels, (first, labels), 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.prehead_input(second, pixels, (first, labels), 2), plain)


@pytest.mark.usefixtures("float64")
def test_clips_of_several_sizes(network) -> None:
    """Clips of one size go through the extractor together; others may differ in size."""
    network = network.double().eval()
    loss = SequenceLoss(sequential_from=0, top_k_share=1.0)
    small, large = item([[1], [1], [1]]), item([[1, 2], [1, 2], [1, 2]])
    large["image"] = [x.repeat(1, 2, 1) for x in large["image"]]
    large["instances"] = [frame([1, 2], (66, 49)) for _ in range(3)]
    preprocess = CFBIPreprocess(MEAN, STD).double()
    alone = [loss(network, preprocess, [c])["loss_seg"] for c in (small, large)]
    both = loss(network, preprocess, [small, large])["loss_seg"]
    assert torch.allclose(both, sum(alone) / 2, atol=1e-9)
