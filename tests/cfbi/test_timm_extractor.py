"""CFBI on a timm trunk: runs, trains what is not frozen, and names what does not fit."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.modeling.matching import joint_features
from vis_projects.structures import ArraySource, InputError

SMALL = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.STANDARDISE", "",
         "MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16", "MODEL.CFBI.HEAD_WIDTH", "32",
         "MODEL.TIMM.NAME"]  # fmt: skip
LITE0 = "configs/cfbi/lite0_stills.yaml"


def build(name: str, embedding: str, *opts: str):
    torch.manual_seed(0)
    return build_model(load_config(LITE0, [*SMALL, name, "MODEL.CFBI.EMBEDDING", embedding, *opts]))


@pytest.mark.parametrize("embedding", ["learned", "trunk"])
@pytest.mark.parametrize("frozen", [True, False])
def test_cfbi_takes_a_network_of_timm(frozen, embedding):
    model = build("mobilenetv3_small_050", embedding, "MODEL.TIMM.FROZEN", str(frozen))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    own = {"learned": "semantic_embedding", "trunk": "appearance"}
    assert any("trunk" in n for n in trained) != frozen
    assert [any(part in n for n in trained) for part in own.values()] == [
        embedding == kind for kind in own
    ]
    frames = (torch.rand(2, 64, 96, 3) * 255).to(torch.uint8).numpy()
    mask = torch.zeros(64, 96, dtype=torch.int64)
    mask[16:48, 24:60] = 1
    result = model.eval().run_video(ArraySource(frames), {0: mask})
    assert [t.id for t in result.tracks] == [1]


def test_the_trunk_embedding_is_what_the_matcher_compares():
    """At the cells of stride 8 both strides have unit length, and the cosines are the matcher's."""
    model = build("mobilenetv3_small_050", "trunk").eval()
    network = model.propagator.network
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        embedded = network.embed(image)[0]
        maps = network.feature_extracter.trunk(image)
    cells = joint_features(maps, ("res3", "res4"), (1.0, 1.0))
    assert embedded.embedding.shape[-2:] == (
        17,
        25,
    )  # stride 4, whose every second cell lies on one
    assert torch.allclose(embedded.embedding[:, ::2, ::2], cells, atol=1e-5)
    strides = cells.split([maps[level].shape[1] for level in ("res3", "res4")])
    for part in strides:
        assert torch.allclose(part.norm(dim=0), torch.ones(9, 13), atol=1e-4)
    assert torch.equal(embedded.low, maps["res2"][0])


@pytest.mark.parametrize(
    ("embedding", "strides"), [("learned", "4, 16 and 32"), ("trunk", "4, 8 and 16")]
)
def test_a_trunk_without_the_strides_is_named(embedding, strides):
    with pytest.raises(InputError, match=f"strides {strides}, this network has 16"):
        build("vit_tiny_patch16_224", embedding)


def test_embeddings_that_do_not_exist_are_named():
    with pytest.raises(InputError, match="EMBEDDING 'pca' is unknown: use learned or"):
        build("mobilenetv3_small_050", "pca")
    with pytest.raises(InputError, match=r"EMBEDDING trunk needs a trunk of timm"):
        build_model(
            load_config(
                "configs/cfbi/quickstart_short.yaml",
                ["MODEL.CFBI.EMBEDDING", "trunk", "MODEL.WEIGHTS", ""],
            )
        )
