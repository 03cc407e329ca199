"""CFBI on a timm trunk: runs, trains what is not frozen, and names what does not fit."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.structures import ArraySource, InputError

SMALL = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.STANDARDISE", "",
         "MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16", "MODEL.CFBI.HEAD_WIDTH", "32",
         "MODEL.TIMM.NAME"]  # fmt: skip
LITE0 = "configs/cfbi/lite0_stills.yaml"


@pytest.mark.parametrize("frozen", [True, False])
def test_cfbi_takes_a_network_of_timm(frozen):
    torch.manual_seed(0)
    cfg = load_config(LITE0, [*SMALL, "mobilenetv3_small_050", "MODEL.TIMM.FROZEN", str(frozen)])
    model = build_model(cfg)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any("trunk" in n for n in trained) != frozen and any("aspp" in n for n in trained)
    frames = (torch.rand(2, 64, 96, 3) * 255).to(torch.uint8).numpy()
    mask = torch.zeros(64, 96, dtype=torch.int64)
    mask[16:48, 24:60] = 1
    result = model.eval().run_video(ArraySource(frames), {0: mask})
    assert [t.id for t in result.tracks] == [1]


def test_a_trunk_without_the_strides_is_named():
    with pytest.raises(InputError, match="strides 4, 16 and 32, this network has 16"):
        build_model(load_config(LITE0, [*SMALL, "vit_tiny_patch16_224"]))
