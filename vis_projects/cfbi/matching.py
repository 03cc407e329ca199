"""Pixel matching of CFBI: global (reference frames) and multi-local (previous frame).

Letters: C embedding channels, h x w cells at stride 4, N objects with the background as object 0,
R reference pixels, K the half-width of a local window in half-resolution cells. A distance is
the squared L2 norm between two embedding vectors; a *map* is the transformed distance
``2 * (sigmoid(d + bias) - 0.5)`` (CFBI section 3), about 1 for "far".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..modeling.precision import at_least_float32

FAR = 5e4  # distance where nothing can match; fits float16
WINDOWS = (2, 4, 6, 8, 10, 12)
# The largest window comes first: the pre-head's weights depend on this order.
CHANNEL_ORDER = (12, 2, 4, 6, 8, 10)
# Query and reference pixels of a block of distances on a CPU: 1 MB.
_CPU_BLOCK = (256, 1024)


def transform(distance: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Turn distances (N, ...) into maps in (-1, 1); ``bias`` (N,)."""
    shape = (-1,) + (1,) * (distance.ndim - 1)
    return 2 * (torch.sigmoid(distance + bias.view(shape)) - 0.5)


def background_maps(maps: torch.Tensor) -> torch.Tensor:
    """For every object the minimum over the other objects' maps (N, ...); N = 1: the map itself."""
    if len(maps) == 1:
        return maps
    two, where = maps.topk(2, dim=0, largest=False)
    index = torch.arange(len(maps), device=maps.device).view(-1, *(1,) * (maps.ndim - 1))
    return torch.where(index == where[0], two[1], two[0])


@dataclass
class ReferencePixels:
    """Reference pixels sorted by object, so that a minimum by label is one by slice.

    Attributes:
        keys: (R, C + 1), -2 times the embedding and its squared norm: the product with (q, 1) is
            the distance less the query's own squared norm.
        counts: pixels per object, on the host; the last of them may be 0.
    """

    keys: torch.Tensor
    counts: list[int]

    @classmethod
    def collect(
        cls,
        embeddings: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        num_objects: int,
        *,
        atrous_rate: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> ReferencePixels:
        """Gather the pixels of all reference frames; done once per new reference.

        Args:
            embeddings: (C, h, w) each.
            labels: plane indices (h, w) each, 0 background; pixels outside 0..N-1 are left out.
            num_objects: N.
            atrous_rate: keep pixels whose row and column it divides.
            dtype: of the keys and of the distances to them.
        """
        r = atrous_rate
        pixels = torch.cat([e[:, ::r, ::r].flatten(1).T for e in embeddings])
        planes = torch.cat([l[::r, ::r].flatten() for l in labels]).long()
        planes = torch.where((planes < 0) | (planes >= num_objects), num_objects, planes)
        order = planes.argsort(stable=True)
        counts = torch.bincount(planes, minlength=num_objects + 1)[:num_objects].tolist()
        pixels = pixels[order[: sum(counts)]]
        pixels = pixels.to(dtype)
        return cls(torch.cat([-2 * pixels, pixels.square().sum(1, keepdim=True)], 1), counts)

    def slices(self, begin: int, end: int) -> list[tuple[int, slice]]:
        """The objects among pixels ``begin`` to ``end`` and where they are, counted from begin."""
        found, start = [], 0
        for plane, count in enumerate(self.counts):
            low, high = max(start, begin), min(start + count, end)
            if low < high:
                found.append((plane, slice(low - begin, high - begin)))
            start += count
        return found


def global_distances(
    query: torch.Tensor, reference: ReferencePixels, *, chunk_mb: float = 256.0
) -> torch.Tensor:
    """Smallest distance of every query pixel to every object's reference pixels.

    Args:
        query: (C, h, w).
        reference: the pixels of all reference frames.
        chunk_mb: megabytes of distances alive at once, at most.

    Returns:
        float32 (N, h, w), computed in the number format of the reference; ``FAR`` for an object
        without a pixel.
    """
    pixels = query.flatten(1).T.to(reference.keys.dtype)
    augmented = F.pad(pixels, (0, 1), value=1.0)
    gradients = torch.is_grad_enabled() and (query.requires_grad or reference.keys.requires_grad)
    with torch.no_grad():
        least, where = _minima(augmented, reference, chunk_mb, indices=gradients)
    if gradients:  # only the nearest pixels have one
        least = (augmented * reference.keys[where]).sum(-1) if len(reference.keys) else least
    found = torch.tensor([c > 0 for c in reference.counts]).to(query.device, non_blocking=True)
    exact = at_least_float32((least + pixels.square().sum(1)).clamp(min=0))
    return torch.where(found[:, None], exact, FAR).view(-1, *query.shape[1:])


def _minima(
    query: torch.Tensor, reference: ReferencePixels, chunk_mb: float, *, indices: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minima (N, Q) of the products with the keys, and with ``indices`` whose they are.

    One matrix product serves all objects. It goes block by block; on a CPU blocks stay in its
    cache, which is most of the speed.
    """
    total, count = len(reference.keys), len(query)
    least = query.new_full((len(reference.counts), count), FAR)
    where = torch.zeros_like(least, dtype=torch.int64)
    columns = min(total, _CPU_BLOCK[1]) if query.device.type == "cpu" else total
    rows = max(1, int(chunk_mb * 1e6 / (4 * max(columns, 1))))
    rows = min(rows, _CPU_BLOCK[0]) if query.device.type == "cpu" else rows
    for low in range(0, total, max(columns, 1)):
        keys = reference.keys[low : low + columns].T
        slices = reference.slices(low, low + columns)
        for begin in range(0, count, rows):
            product = query[begin : begin + rows] @ keys
            for plane, part in slices:
                best = least[plane, begin : begin + rows]
                if not indices:
                    torch.minimum(best, product[:, part].amin(1), out=best)
                    continue
                values, index = product[:, part].min(1)
                at = where[plane, begin : begin + rows]
                at.copy_(torch.where(values < best, index + low + part.start, at))
                torch.minimum(best, values, out=best)
    return least, where


def global_matching(
    query: torch.Tensor,
    reference: ReferencePixels,
    bias: torch.Tensor,
    *,
    chunk_mb: float = 256.0,
) -> torch.Tensor:
    """Global maps (N, h, w); without any reference pixel all are 1."""
    return transform(global_distances(query, reference, chunk_mb=chunk_mb), bias)


def local_matching(
    query: torch.Tensor,
    previous: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor,
    *,
    windows: Sequence[int] = CHANNEL_ORDER,
    downsample: bool = True,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Local maps of several windows at once.

    Args:
        query, previous: embeddings (C, h, w) of this frame and the one before.
        labels: planes (h, w) of the frame before.
        bias: (N,).
        windows: half-widths, in the order of the result's channels.
        downsample: match at half resolution, (floor(h/2)+1) x (floor(w/2)+1) cells.
        dtype: of the embeddings in matching and of the distances.

    Returns:
        (N, len(windows), h, w).
    """
    size = query.shape[-2:]
    if downsample:
        half = (size[0] // 2 + 1, size[1] // 2 + 1)
        both = torch.stack([query, previous])
        both = F.interpolate(both, half, mode="bilinear", align_corners=True)
        query, previous = both.unbind()
        labels = F.interpolate(labels[None, None].float(), half, mode="nearest")[0, 0]
    distances = window_distances(
        query.to(dtype), previous.to(dtype), labels.long(), len(bias), windows
    )
    maps = transform(distances.float(), bias)
    if downsample:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=True)
    return maps


def window_distances(
    query: torch.Tensor,
    previous: torch.Tensor,
    labels: torch.Tensor,
    num_objects: int,
    windows: Sequence[int],
) -> torch.Tensor:
    """Smallest distance inside each window, by object: (N, len(windows), h, w).

    Row by row: the products of a query row with a row of the frame before are one matrix, of which
    a band of columns is wanted. Minima run over the rings between one window and the next, so the
    full window tensor (h, w, (2K+1)^2, N) never exists.
    """
    channels, h, w = query.shape
    radius = min(max(windows), max(h, w))
    rings = sorted(set(windows))
    q = query.permute(1, 2, 0)  # (h, w, C)
    p = previous.permute(1, 0, 2)  # (h, C, w)
    q2, p2 = query.square().sum(0), previous.square().sum(0)
    padded = F.pad(labels, (radius, radius), value=-1)
    best = [query.new_full((num_objects, h, w), FAR) for _ in rings]
    planes = torch.arange(num_objects, device=query.device).view(-1, 1, 1, 1)
    for dy in range(-min(radius, h - 1), min(radius, h - 1) + 1):
        rows = slice(max(0, -dy), h - max(0, dy))
        other = slice(max(0, dy), h - max(0, -dy))
        product = torch.baddbmm(p2[other][:, None], q[rows], p[other], alpha=-2.0)
        band = _band(F.pad(product, (radius, radius), value=FAR), w, radius)
        near = _band_of_rows(padded[other], w, radius)
        band = torch.where(near[None] == planes, band[None], FAR)  # (N, rows, w, 2 radius + 1)
        for ring, half in enumerate(rings):
            if abs(dy) > half:
                continue
            low, high = max(radius - half, 0), radius + half + 1
            inner = rings[ring - 1] if ring and abs(dy) <= rings[ring - 1] else -1
            if inner < 0:
                least = band[..., low:high].amin(-1)
            else:
                left = band[..., low : radius - inner]
                right = band[..., radius + inner + 1 : high]
                parts = [x.amin(-1) for x in (left, right) if x.shape[-1]]
                least = torch.stack([least, *parts]).amin(0) if parts else least
            whole = F.pad(least, (0, 0, rows.start, h - rows.stop), value=FAR)
            best[ring] = torch.minimum(best[ring], whole)
    least = torch.stack([best[rings.index(k)] for k in windows], 1)
    return torch.where(least < FAR / 2, (least + q2).clamp(min=0), least)


def _band(product: torch.Tensor, width: int, radius: int) -> torch.Tensor:
    """View (rows, w, w + 2r) as its band (rows, w, 2r + 1): columns x .. x + 2r of row x."""
    rows, _, padded = product.shape
    strides = (product.stride(0), product.stride(1) + 1, 1)
    return product.as_strided((rows, width, 2 * radius + 1), strides)


def _band_of_rows(labels: torch.Tensor, width: int, radius: int) -> torch.Tensor:
    """View (rows, w + 2r) as (rows, w, 2r + 1): columns x .. x + 2r."""
    return labels.unfold(1, 2 * radius + 1, 1)
