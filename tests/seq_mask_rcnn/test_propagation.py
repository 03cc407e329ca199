"""The Seq-Prop head and K-propagation against the recordings, in lock step and one by one."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch

from vis_projects.modeling import FeatureCache, pairwise_mask_iou
from vis_projects.seq_mask_rcnn.aggregation import aggregate, aggregation_logits
from vis_projects.seq_mask_rcnn.guidance import keep_distinct, to_grid
from vis_projects.seq_mask_rcnn.k_propagation import (
    FrameFeatures,
    KPropagation,
    Proposal,
    memory_entries,
    memory_step,
)
from vis_projects.seq_mask_rcnn.seq_prop_head import (
    SeqPropHead,
    mask_probabilities,
    positions_first,
)
from vis_projects.seq_mask_rcnn.soft_iou_loss import soft_iou_loss
from vis_projects.structures import InputError


def feature(name: str, *shape: int, relu: bool = False) -> torch.Tensor:
    values = fill.values("in." + name, (1, *shape)) * np.sqrt(float(np.prod(shape)))
    values = values.astype(np.float32)
    return torch.from_numpy(np.maximum(values, 0) if relu else values)


@pytest.fixture(scope="module")
def head():
    head = SeqPropHead(in_channels=256, skip_channels={"res3": 512, "res2": 256})
    fill.fill(head)
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(22.18e6, abs=5e3)
    return head.eval().requires_grad_(False)


@pytest.mark.parametrize("tag", ["o1m1", "o3m1", "o1m3", "o3m3", "o2m2pad"])
def test_head_equals_the_recording(head, recorded, tag):
    d = recorded("head")
    memory = next(c["memory"] for c in json.loads(str(d["meta"])) if c["tag"] == tag)
    keys, values = [], []
    for i in range(memory):
        masks = torch.from_numpy(d[f"{tag}.mask{i}"]).float() / 255
        key, value = head.memorize(feature(f"{tag}.P2.g{i}", 256, 16, 24), masks)
        np.testing.assert_allclose(key, d[f"{tag}.mem_key"][:, :, i], atol=1e-4)
        np.testing.assert_allclose(value[:, :16], d[f"{tag}.mem_value_ch0to15"][:, :, i], atol=1e-4)
        keys.append(positions_first(key))
        values.append(positions_first(value))
    query = head.query(
        {
            "p2": feature(f"{tag}.P2.q", 256, 16, 24),
            "res2": feature(f"{tag}.C2.q", 256, 16, 24, relu=True),
            "res3": feature(f"{tag}.C3.q", 512, 8, 12, relu=True),
        }
    )
    np.testing.assert_allclose(query.key, d[f"{tag}.qry_key"], atol=1e-4)
    np.testing.assert_allclose(query.value[:, :16], d[f"{tag}.qry_value_ch0to15"], atol=1e-4)
    keys, values = torch.cat(keys, 1), torch.cat(values, 1)
    read = head.read(positions_first(query.key), keys, values)
    logits = head.decode(read.transpose(1, 2).unflatten(2, (4, 6)), query.value, query.skips)
    np.testing.assert_allclose(logits, d[f"{tag}.pred_logits_s4"], atol=1e-4)
    prob = head.segment(query, keys, values)
    assert torch.equal(prob, mask_probabilities(logits))
    np.testing.assert_allclose(prob, d[f"{tag}.prob"], atol=1e-5)
    if f"{tag}.agg_logits" in d:
        z = aggregation_logits(prob)
        np.testing.assert_allclose(z.softmax(0), d[f"{tag}.agg_prob"], atol=1e-5)
        np.testing.assert_allclose(z, d[f"{tag}.agg_logits"], atol=1e-3, rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_reading_equals_the_formula(head):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn((1, 6, 64), generator=generator)
    k = torch.randn((2, 18, 64), generator=generator)
    v = torch.randn((2, 18, 256), generator=generator)
    affinity = torch.softmax(k @ q.transpose(1, 2) / 8, dim=1)
    want = affinity.transpose(1, 2) @ v
    torch.testing.assert_close(head.read(q, k, v), want, atol=1e-5, rtol=1e-5)


@pytest.mark.numeric  # a mean of four numbers: float32 rounds in its last digit everywhere
def test_grid_is_the_mean_of_the_inner_pixels():
    mask = torch.rand(2, 7, 11)
    padded = torch.zeros(2, 8, 12)
    padded[:, :7, :11] = mask
    blocks = padded.view(2, 2, 4, 3, 4)[:, :, 1:3, :, 1:3].mean((2, 4))
    torch.testing.assert_close(to_grid(mask, (2, 3)), blocks)


class Video:
    """Features of the recorded video, computed when asked, and what propagation stores."""

    def __init__(self, head, limit_mb=float("inf")):
        self.head = head
        self.cache = FeatureCache(limit_mb)
        self.soft = {}
        self.order = []

    def features(self, t):
        return self.cache.get(t, lambda: self.compute(t))

    def compute(self, t):
        maps = {
            "p2": feature(f"prop.P2.{t}", 256, 8, 16),
            "res2": feature(f"prop.C2.{t}", 256, 8, 16, relu=True),
            "res3": feature(f"prop.C3.{t}", 512, 4, 8, relu=True),
        }
        return FrameFeatures(maps["p2"], self.head.query(maps))

    def store(self, rows, frame, soft):
        self.order.append((rows.start, frame))
        for i, mask in zip(range(rows.start, rows.stop), soft):
            assert (i, frame) not in self.soft
            self.soft[i, frame] = mask.clone()

    def tubes(self, count, length):
        return torch.stack(
            [torch.stack([self.soft[i, t] for t in range(length)]) for i in range(count)]
        )


def proposals_of(d, cases):
    out, first = [], 0
    for case in cases:
        masks = torch.from_numpy(d[f"{case['tag']}.det"])
        kept = keep_distinct(pairwise_mask_iou(masks, masks).tolist(), 0.2)
        assert kept == d[f"{case['tag']}.kept"].tolist()
        out.append(Proposal(case["key_frame"], masks[kept], first))
        first += len(kept)
    return out


def options(case):
    return {k: v for k, v in case["propose"].items() if k in ("mem_step", "mem_num")}


@pytest.mark.parametrize("tag", ["every", "num3", "step3"])
def test_propagation_equals_the_recording(head, recorded, tag):
    d = recorded("propagate")
    case = next(c for c in json.loads(str(d["meta"])) if c["tag"] == tag)
    (proposal,) = proposals_of(d, [case])
    video = Video(head)
    KPropagation(**options(case)).run(head, video.features, [proposal], length=6, store=video.store)
    got = video.tubes(len(proposal.masks), 6).transpose(0, 1)
    np.testing.assert_allclose(got, d[f"{tag}.soft"], atol=1e-4)
    step = memory_step(6, **options(case))
    key = case["key_frame"]
    order = [1] + [memory_entries(abs(t - key), step) for t in range(key + 1, 6)]
    order += [memory_entries(abs(t - key), step) for t in range(key - 1, -1, -1)]
    assert order == d[f"{tag}.memory_frames_seen"].tolist()


@pytest.mark.parametrize(("max_rows", "chunk_rows", "limit_mb"), [(100, 3, 0.0), (3, 100, 1e9)])
def test_lock_step_equals_one_by_one(head, recorded, max_rows, chunk_rows, limit_mb):
    """Probabilities in [0, 1], fed back for five frames: float32 in batches of another size moves
    them by 6e-7 on the processor where this was written; the tolerance is thirty times that."""
    d = recorded("propagate")
    cases = json.loads(str(d["meta"]))
    proposals = proposals_of(d, cases)
    together, alone = Video(head, limit_mb), Video(head)
    KPropagation(mem_step=2, max_rows=max_rows, chunk_rows=chunk_rows).run(
        head, together.features, proposals, length=6, store=together.store
    )
    for proposal in proposals:
        KPropagation(mem_step=2, max_rows=1, chunk_rows=1).run(
            head, alone.features, [proposal], length=6, store=alone.store
        )
    torch.testing.assert_close(together.tubes(5, 6), alone.tubes(5, 6), atol=2e-5, rtol=0)


def test_degenerate_videos(head):
    video = Video(head)
    masks = torch.zeros(1, 30, 60)
    masks[:, 3:9, 4:20] = 1
    KPropagation().run(head, video.features, [], length=6, store=video.store)
    assert not video.soft
    KPropagation(redo_key_frame=False).run(
        head, video.features, [Proposal(0, masks)], length=1, store=video.store
    )
    assert torch.equal(video.soft[0, 0][:30, :60], masks[0])
    assert not video.soft[0, 0][30:].any()


def test_memory_schedule():
    assert memory_step(36) == 1
    assert memory_step(36, mem_num=10) == 3
    assert memory_step(4, mem_num=10) == 1
    assert [memory_entries(d, 3) for d in range(1, 8)] == [1, 1, 1, 2, 2, 2, 3]
    # With MEM_NUM a memory stays bounded however long the video is, so time is linear in T.
    for length in range(2, 400):
        assert memory_entries(length - 1, memory_step(length, mem_num=10)) <= 20


def test_unknown_options():
    with pytest.raises(InputError, match="FUSION"):
        SeqPropHead(in_channels=4, skip_channels={}, fusion="max")
    with pytest.raises(InputError, match="SKIP_FEATURES"):
        SeqPropHead(in_channels=4, skip_channels={"res4": 4})


def small_head(**options) -> SeqPropHead:
    torch.manual_seed(0)
    return SeqPropHead(
        in_channels=8,
        skip_channels={"res2": 8},
        hidden_channels=16,
        key_channels=4,
        value_channels=8,
        decoder_channels=8,
        **options,
    )


def test_paper_variant_runs():
    head = small_head(fusion="sum")
    query = head.query({"p2": torch.randn(1, 8, 8, 8), "res2": torch.randn(1, 8, 8, 8)})
    key, value = head.memorize(torch.randn(1, 8, 8, 8), torch.rand(3, 32, 32))
    out = head.segment(query, positions_first(key), positions_first(value))
    assert out.shape == (3, 32, 32)
    out.sum().backward()


def test_untrained_query_side_equals_the_memory_side():
    head = small_head()
    p2 = torch.randn(1, 8, 8, 8)
    key, _ = head.memorize(p2, torch.zeros(1, 32, 32))
    torch.testing.assert_close(head.query({"p2": p2, "res2": p2}).key, key)


def test_head_learns_to_tell_two_objects_apart_by_their_masks():
    head = small_head(norm="BN")
    looks = torch.randn(3, 8)

    def frame(*corners):
        masks = torch.zeros(2, 64, 64)
        for mask, (x, y) in zip(masks, corners):
            mask[y : y + 24, x : x + 24] = 1
        owner = to_grid(masks, (16, 16)).mul(torch.tensor([1, 2])[:, None, None]).sum(0)
        return looks[owner.long()].permute(2, 0, 1)[None] + 0.1 * torch.randn(1, 8, 16, 16), masks

    frames = [frame((4, 4), (36, 32)), frame((20, 8), (32, 36)), frame((36, 4), (4, 36))]
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for step in range(60):
        (p2, masks), (there, truth) = frames[step % 3], frames[(step + 1) % 3]
        key, value = head.memorize(p2, masks)
        query = head.query({"p2": there, "res2": there})
        soft = head.segment(query, positions_first(key), positions_first(value))
        loss = soft_iou_loss(aggregate(soft), truth).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
