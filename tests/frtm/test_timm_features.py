"""FRTM on a timm trunk, and the start at D's score."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from vis_projects.config import load_config
from vis_projects.frtm.score_start import start_from_scores
from vis_projects.frtm.segmentation_network import SegmentationNetwork
from vis_projects.frtm.tracker import target_map
from vis_projects.structures import ArraySource, InputError

LITE0 = "configs/frtm/lite0_stills.yaml"
RANDOM = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"]


def test_the_score_passes_through_a_fresh_network():
    torch.manual_seed(0)
    channels = {"layer2": 8, "layer3": 8, "layer4": 8, "layer5": 8}
    network = SegmentationNetwork(channels).eval()
    start_from_scores(network)
    features = {n: torch.randn(1, 8, 64 // s, 96 // s) for n, s in zip(channels, (4, 8, 16, 32))}
    scores = torch.rand(1, 1, 4, 6)
    with torch.no_grad():
        logits = network(scores, features, (64, 96))
    wanted = F.interpolate(scores, (64, 96), mode="bilinear")
    both = torch.stack([logits.flatten(), wanted.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
    assert ((logits > 0) == (wanted > 0.5)).float().mean() > 0.9


def test_frtm_takes_any_network_of_timm_with_four_strides():
    options = ["MODEL.TIMM.NAME", "mobilenetv3_small_050", "MODEL.TIMM.STANDARDISE", ""]
    model = build_model(load_config(LITE0, [*RANDOM, *options])).eval()
    frames = (torch.rand(3, 64, 96, 3) * 255).to(torch.uint8).numpy()
    mask = torch.zeros(64, 96, dtype=torch.int64)
    mask[16:48, 24:60] = 1
    result = model.run_video(ArraySource(frames), {0: mask})
    assert [t.id for t in result.tracks] == [1]
    assert not any(p.requires_grad for p in model.backbone.parameters())
    with pytest.raises(InputError, match="strides 4, 8, 16 and 32"):
        build_model(
            load_config(LITE0, [*RANDOM, *options[:1], "vit_tiny_patch16_224", *options[2:]])
        )
    with pytest.raises(InputError, match="BACKBONE_WEIGHTS is for ResNets"):
        build_model(load_config(LITE0, [*RANDOM, "MODEL.FRTM.BACKBONE_WEIGHTS", "r18.pth"]))


def test_target_models_read_joined_layers_at_the_finest_grid():
    features = {"layer3": torch.rand(2, 3, 9, 13), "layer4": torch.rand(2, 5, 5, 7)}
    assert target_map(features) is features["layer4"]
    joined = target_map(features, ("layer3", "layer4"))
    assert torch.equal(joined[:, :3], features["layer3"])
    wanted = F.interpolate(features["layer4"], (9, 13), mode="bilinear", align_corners=False)
    assert torch.equal(joined[:, 3:], wanted)
    assert target_map(features, ("layer3", "layer4")) is joined  # once for each frame


def test_scores_have_the_cells_of_the_finest_target_layer():
    options = ["MODEL.TIMM.NAME", "mobilenetv3_small_050", "MODEL.TIMM.STANDARDISE", "",
               "INPUT.MIN_SIZE_TEST", "0"]  # fmt: skip
    sizes = {}
    for layers in (("layer4",), ("layer3", "layer4")):
        cfg = load_config(LITE0, [*RANDOM, *options, "MODEL.FRTM.TARGET.LAYERS", str(layers)])
        model = build_model(cfg).eval()
        frames = (torch.rand(2, 64, 96, 3) * 255).to(torch.uint8).numpy()
        mask = torch.zeros(64, 96, dtype=torch.int64)
        mask[16:48, 24:60] = 1
        model.run_video(ArraySource(frames), {0: mask})
        memory = model.tracker.targets[0].memory.samples()[0]
        sizes[layers] = tuple(memory.shape[-2:])
    assert sizes == {("layer4",): (4, 6), ("layer3", "layer4"): (8, 12)}
    with pytest.raises(InputError, match="TARGET.LAYERS"):
        build_model(
            load_config(LITE0, [*RANDOM, *options, "MODEL.FRTM.TARGET.LAYERS", "('res3',)"])
        )
