"""Training: degenerate batches, every option of the losses, gradients, the classic defects."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch.nn import functional as F

from vis_projects.config import load_config
from vis_projects.crossvis.condinst import scale_gradient
from vis_projects.crossvis.crossover import match_objects
from vis_projects.crossvis.identity_loss import (
    global_identity_loss,
    mean_embeddings,
    pairwise_identity_loss,
)
from vis_projects.structures import InputError

QUICK = "configs/crossvis/quickstart_synthetic.yaml"
NAMES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask", "loss_reid"}


def build(*opts, meta: str = "CrossVIS"):
    torch.manual_seed(0)
    options = ["MODEL.META_ARCHITECTURE", meta, "MODEL.CROSSVIS.NUM_IDENTITIES", 9, *opts]
    return build_model(load_config(QUICK, [str(o) for o in options])).train()


def frame(objects, size=(64, 96)):
    """Ground truth of rectangles ``{id: (x0, y0, x1, y1)}``."""
    out = Instances(size)
    masks = torch.zeros(len(objects), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, objects.values()):
        mask[y0:y1, x0:x1] = True
    ids = torch.tensor(list(objects), dtype=torch.int64)
    out.gt_boxes = Boxes(torch.tensor(list(objects.values())).float().reshape(-1, 4))
    out.gt_classes = ids % 4
    out.gt_masks = BitMasks(masks)
    out.gt_ids, out.gt_identity = ids, ids - 1
    return out


def item(first, second, size=(64, 96)):
    generator = torch.Generator().manual_seed(len(first) + 10 * len(second))
    images = [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in "ab"
    ]
    return {"image": images, "instances": [frame(first, size), frame(second, size)]}


A, B, C = (5, 5, 40, 40), (50, 10, 90, 50), (30, 20, 60, 55)


@pytest.mark.parametrize(
    ("embedding", "loss"),
    [("global", "focal"), ("global", "ce"), ("pairwise", "focal"), ("pairwise", "ce")],
)
def test_every_loss_is_finite_and_reaches_the_network(embedding, loss):
    model = build("MODEL.CROSSVIS.EMBEDDING.TYPE", embedding, "MODEL.CROSSVIS.EMBEDDING.LOSS", loss)
    batch = [item({1: A, 2: B}, {2: A, 3: B}), item({4: C}, {4: A}, (56, 80))]
    losses = model.losses(batch)
    assert losses.keys() == NAMES | {"loss_cross_over"}
    assert all(v.ndim == 0 and v.isfinite() and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_without_crossover_its_loss_is_absent():
    model = build("MODEL.CROSSVIS.CROSSOVER.ENABLED", False)
    assert model.losses([item({1: A}, {1: B})]).keys() == NAMES


@pytest.mark.parametrize("embedding", ["global", "pairwise"])
@pytest.mark.parametrize(
    ("first", "second"), [({}, {}), ({1: A}, {}), ({}, {1: A}), ({1: A}, {2: B})]
)
def test_frames_without_common_objects_train_on(first, second, embedding):
    model = build("MODEL.CROSSVIS.EMBEDDING.TYPE", embedding)
    losses = model.losses([item(first, second)])
    assert losses["loss_cross_over"].item() == 0
    assert all(v.isfinite() for v in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():  # several processes need every gradient
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_more_positives_than_max_proposals():
    batch = [item({1: A, 2: B}, {1: B, 2: A})]
    options = ["MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", -1, "MODEL.CONDINST.MAX_PROPOSALS"]
    model = build(*options, 3)
    passes = model.train_frames(batch[0]["image"][:1], batch[0]["instances"][:1])
    assert len(passes.targets) > 3
    rows = [model.choose_positives(passes) for _ in range(8)]
    assert all(len(r) == 3 == len(r.unique()) for r in rows)
    assert len({tuple(sorted(r.tolist())) for r in rows}) > 1  # drawn anew
    losses = model.losses(batch)
    assert losses["loss_mask"] > 0 and losses["loss_cross_over"] > 0
    with pytest.raises(InputError, match="both set"):
        build("MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", 4, "MODEL.CONDINST.MAX_PROPOSALS", 3)


def test_topk_keeps_the_best_positives_of_each_object():
    model = build("MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", 5)
    batch = model.train_frames(
        item({1: A, 2: B}, {})["image"], [frame({1: A, 2: B}), frame({3: C})]
    )
    rows = model.choose_positives(batch)
    objects = batch.targets.gt_inds
    quality = torch.cat(
        [
            m.permute(0, 2, 3, 1).flatten(0, 2)
            for m in (
                l.amax(1, keepdim=True).sigmoid() * c.sigmoid()
                for l, c in zip(batch.outputs.logits, batch.outputs.centerness)
            )
        ]
    )[batch.targets.positive, 0]
    for g, limit in enumerate((2, 2, 5)):
        mine = (objects == g).nonzero()[:, 0]
        best = mine[quality[mine].argsort(descending=True)][:limit]
        assert set(rows[objects[rows] == g].tolist()) == set(best.tolist())


def test_backbone_gradient_is_scaled_and_nothing_else():
    batch = [item({1: A}, {1: B})]
    norms = []
    for scale in (1.0, 0.1):
        model = build("MODEL.CROSSVIS.BACKBONE_GRAD_SCALE", scale)
        model.draw = lambda count: torch.zeros(count)
        sum(model.losses(batch).values()).backward()
        norms.append({k: p.grad.norm() for k, p in model.named_parameters()})
    for name, norm in norms[0].items():
        factor = 0.1 if name.startswith("backbone.") else 1.0
        torch.testing.assert_close(norms[1][name], factor * norm, rtol=1e-3, atol=1e-6)
    x = torch.randn(3)
    assert torch.equal(scale_gradient(x, 1.0), x)
    torch.testing.assert_close(scale_gradient(x, 0.1), x)


def test_objects_are_matched_within_their_own_video():
    here = [frame({7: A, 3: B}), frame({3: A})]
    there = [frame({3: A, 9: B, 7: C}), frame({}), frame({3: B})][:2]
    assert match_objects(here, there).tolist() == [2, 0, -1]
    assert match_objects(there, here).tolist() == [1, -1, 0]
    assert match_objects([frame({})], [frame({1: A})]).tolist() == []


def test_pairwise_loss_equals_equation_9():
    generator = torch.Generator().manual_seed(2)
    e, refs = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    partner, images = torch.tensor([1, -1, 2]), torch.tensor([0, 0, 1])
    reference_images = torch.tensor([0, 0, 1])
    present = torch.tensor([True, True, False])
    got = pairwise_identity_loss(e, partner, images, refs, reference_images, present)
    want = 0.0
    for p in range(3):
        known = [n for n in range(3) if reference_images[n] == images[p] and present[n]]
        total = 1 + sum((e[p] @ refs[n]).exp() for n in known)
        target = partner[p].item()
        chosen = (e[p] @ refs[target]).exp() if target in known else torch.ones(())
        want -= (chosen / total).log().item() / 3
    assert got.item() == pytest.approx(want, rel=1e-5)


def test_mean_embedding_per_object():
    means, present = mean_embeddings(
        torch.tensor([[1.0, 0], [3, 2], [5, 5]]), torch.tensor([0, 0, 2]), 4
    )
    assert means.tolist() == [[2, 1], [0, 0], [5, 5], [0, 0]]
    assert present.tolist() == [True, False, True, False]


@pytest.mark.numeric
def test_global_cross_entropy_equals_torch():
    """A mean of five numbers near 2: float32 rounds at 1e-7, the tolerance is 1e-5."""
    classifier = torch.nn.Linear(4, 6)
    e, ids = torch.randn(5, 4), torch.tensor([0, 5, 2, 2, 1])
    scale = 2**0.5 * torch.tensor(5.0).log()
    want = F.cross_entropy(classifier(scale * F.normalize(e, dim=1)), ids)
    torch.testing.assert_close(global_identity_loss(e, ids, classifier, loss="ce"), want)


def test_wrong_items_and_options_are_named():
    model = build()
    single = item({1: A}, {1: A})
    with pytest.raises(InputError, match="pairs of frames"):
        model.losses([{**single, "image": single["image"][:1]}])
    with pytest.raises(InputError, match="identity 9"):
        model.losses([item({1: A}, {10: A})])
    for option, value in (("TYPE", "local"), ("LOSS", "triplet")):
        with pytest.raises(InputError, match=f"EMBEDDING.{option} '{value}'"):
            build(f"MODEL.CROSSVIS.EMBEDDING.{option}", value)
    with pytest.raises(InputError, match="SIZES_OF_INTEREST"):
        build("MODEL.FCOS.SIZES_OF_INTEREST", "[8]")
    with pytest.raises(InputError, match="'p6'"):
        build("MODEL.FCOS.IN_FEATURES", "['p3','p4','p6']")


def test_condinst_trains_on_stills_and_on_polygons():
    model = build(meta="CondInst")
    assert not hasattr(model, "cls") and model.proposal_generator.fcos_head.reid_tower is None
    clip = item({1: A, 2: B}, {})
    still = {"image": clip["image"][0], "instances": clip["instances"][0]}
    losses = model.losses([still])
    assert losses.keys() == NAMES - {"loss_reid"}
    polygons = Instances((64, 96), **still["instances"].get_fields())
    corners = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in (A, B)]
    polygons.gt_masks = PolygonMasks([[torch.tensor(c).double().numpy()] for c in corners])
    drawn = model.losses([{**still, "instances": polygons}])
    torch.testing.assert_close(drawn["loss_mask"], losses["loss_mask"], rtol=0.05, atol=0.02)
    sum(drawn.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("embedding", ["global", "pairwise"])
def test_mixed_precision_gives_about_the_same_losses(embedding):
    batch = [item({1: A, 2: B}, {2: A, 1: B})]
    results = []
    for enabled in (False, True):
        model = build("MODEL.CROSSVIS.EMBEDDING.TYPE", embedding)
        model.draw = lambda count: torch.zeros(count)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(model.losses(batch))
        sum(results[-1].values()).backward()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name].float(), value, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_pairwise_products_start_at_the_size_of_the_other_losses(loss):
    """As printed, products of 256 channels behind a batch norm start the loss at 10 and more."""
    options = (
        *("MODEL.CROSSVIS.EMBEDDING.TYPE", "pairwise", "MODEL.CROSSVIS.EMBEDDING.LOSS", loss),
        *("MODEL.CROSSVIS.EMBEDDING.DIM", 256),
    )
    # Object 1 comes back elsewhere, before other pixels: its embeddings have to be learned.
    pairs = [item({1: A, 2: B}, {1: C, 2: A}) for _ in range(2)]
    scaled = build(*options)(pairs)
    others = [v for k, v in scaled.items() if k != "loss_reid"]
    assert scaled["loss_reid"] < 2 * max(others)
    printed = build(*options, "MODEL.CROSSVIS.EMBEDDING.PAIRWISE_SCALE", 1.0)(pairs)
    assert printed["loss_reid"] > 5 * scaled["loss_reid"]
    for key in scaled.keys() - {"loss_reid"}:
        assert torch.equal(scaled[key], printed[key])


def test_association_multiplies_embeddings_as_the_loss_does():
    def product(kind: str, scale: float = 0.0) -> float:
        model = build(
            *("MODEL.CROSSVIS.EMBEDDING.TYPE", kind, "MODEL.CROSSVIS.EMBEDDING.DIM", 64),
            *("MODEL.CROSSVIS.EMBEDDING.PAIRWISE_SCALE", scale),
        )
        return model.embedding_scale**2

    assert product("pairwise") == pytest.approx(1 / 64)
    assert product("pairwise", 0.5) == pytest.approx(0.5)
    assert product("global", 0.5) == 1.0  # its row is untouched
