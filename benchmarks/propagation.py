"""Memory and time of Propose-Reduce's propagation.

python -m benchmarks propagation memory      one lock-step iteration, 384x640, O = 10, M = 35
python -m benchmarks propagation growth      seconds against T with MEM_NUM fixed, small network

Memory is what tensors occupy: those alive at the start plus the allocator's balance since, on CUDA
the allocator's peak.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from detectron2.modeling import build_model
from torch.profiler import ProfilerActivity, profile

from vis_projects.config import load_config
from vis_projects.modeling import FeatureCache, tensor_bytes
from vis_projects.seq_mask_rcnn.k_propagation import FrameFeatures, KPropagation, Proposal, Stream
from vis_projects.seq_mask_rcnn.model import SeqMaskRCNN
from vis_projects.seq_mask_rcnn.propose_reduce import VideoFeatures
from vis_projects.structures import Frame

OBJECTS, ENTRIES = 10, 35


def peak_bytes(run) -> tuple[int, float, torch.Tensor]:
    """Return (peak above the start, seconds, result) of ``run()``."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        result = run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        return torch.cuda.max_memory_allocated() - before, seconds, result
    begin = time.process_time()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    seconds = time.process_time() - begin
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    balance = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        balance += event.nbytes()
        peak = max(peak, balance)
    return peak, seconds, result


def clone(features: VideoFeatures) -> VideoFeatures:
    """Copy a frame's tensors: every frame of a cached video has its own."""
    query = features.query
    return VideoFeatures(
        {k: v.clone() for k, v in features.pyramid.items()},
        replace(
            query,
            key=query.key.clone(),
            value=query.value.clone(),
            skips={k: v.clone() for k, v in query.skips.items()},
        ),
    )


@torch.no_grad()
def memory() -> None:
    """Print the peak of one iteration with all frames cached, and with a bounded cache."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = load_config("configs/seq_mask_rcnn/R50_ytvis2019.yaml", ["MODEL.DEVICE", device])
    model: SeqMaskRCNN = build_model(cfg).eval()
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 360, 640), dtype=torch.uint8, generator=generator)

    def compute() -> VideoFeatures:
        return model._features(Frame(image))[1]

    first = compute()
    head = model.roi_heads.prop_head
    positions = first.query.key[0, 0].numel()
    store = tuple(
        torch.randn((OBJECTS, (ENTRIES + 1) * positions, n), generator=generator).to(device)
        for n in (head.key_channels, head.value_channels)
    )
    stream = Stream(0, slice(0, OBJECTS), range(1, ENTRIES + 2))
    propagation = KPropagation(cfg)

    def iteration(get) -> torch.Tensor:
        soft = propagation.step(head, get, [stream], store, ENTRIES, ENTRIES)
        propagation.remember(head, get, [stream], store, ENTRIES, ENTRIES, soft)
        return soft

    results = {}
    for name, limit in (("everything cached", float("inf")), ("bounded cache", 100.0)):
        cache = FeatureCache(limit)
        if limit == float("inf"):
            for t in range(ENTRIES + 1):
                copy = clone(first)
                cache.get(t, lambda copy=copy: [copy, copy.tensors()])

        def get(t: int, cache: FeatureCache = cache) -> FrameFeatures:
            def weighed() -> list:
                found = compute()
                return [found, found.tensors()]

            found = cache.get(t, weighed)[0]
            return FrameFeatures(found.pyramid["p2"], found.query)

        held = tensor_bytes(store) + cache.bytes
        peak, seconds, results[name] = peak_bytes(lambda get=get: iteration(get))
        total = (held + peak) / 1e9
        print(
            f"{name}: peak {total:.2f} GB without weights, {total + weights / 1e9:.2f} GB with "
            f"them (memory {tensor_bytes(store) / 1e9:.2f}, "
            f"features {cache.bytes / 1e9:.2f} at the end), {seconds:.1f} s"
        )
    a, b = results.values()
    print(f"largest difference of the results: {(a - b).abs().max().item():.1e}")


@torch.no_grad()
def growth() -> None:
    """Print the seconds of propagating two objects through longer and longer videos."""
    cfg = load_config("configs/seq_mask_rcnn/quickstart_synthetic.yaml", ["MODEL.DEVICE", "cpu"])
    model: SeqMaskRCNN = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 96, 160), dtype=torch.uint8)
    features = model._features(Frame(image))[1]
    frame = FrameFeatures(features.pyramid["p2"], features.query)
    masks = torch.zeros(2, 96, 160)
    masks[0, 20:50, 30:70] = masks[1, 50:80, 90:140] = 1
    for mem_num in (4, 0):
        propagation = KPropagation(mem_num=mem_num, chunk_rows=16)
        print(f"MEM_NUM {mem_num}" + ("" if mem_num else " (every frame is kept)"))
        for length in (20, 40, 80, 160):
            begin = time.process_time()
            propagation.run(
                model.roi_heads.prop_head,
                lambda _t: frame,
                [Proposal(0, masks)],
                length=length,
                store=lambda *_: None,
            )
            seconds = time.process_time() - begin
            print(f"  T {length:4d}: {seconds:6.2f} s, {1000 * seconds / length:6.1f} ms a frame")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("memory", "growth"))
    {"memory": memory, "growth": growth}[parser.parse_args(argv).what]()
