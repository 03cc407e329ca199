"""FRTM written slowly and plainly: what the fast version must equal, and is timed against.

Gauss-Newton by automatic differentiation on residuals at full resolution; the network as the paper
draws it, object after object; torchvision's ResNet as it is; 19 augmented images of which four are
kept. One object at a time, nothing shared, nothing collapsed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from vis_projects.frtm import augmentation

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def target_scores(x: Tensor, project: Tensor | None, weight: Tensor) -> Tensor:
    """Two convolutions; the first one is left out for projected features."""
    return F.conv2d(x if project is None else F.conv2d(x, project), weight, padding=1)


def root_pixel_weights(y: Tensor, k_min: float = 0.1) -> Tensor:
    """The square root of Eq. 4, mask by mask."""
    out = []
    for mask in y:
        share = float((mask > 0.5).sum()) / mask.numel()
        if (mask > 0.5).sum() < 10:
            share = k_min
        wanted = max(k_min, share)
        background = (1 - wanted) / (1 - share) if share < 1 else 1.0
        foreground, background = mask.new_tensor([wanted / share, background]).sqrt()
        out.append(torch.where(mask > 0.5, foreground, background))
    return torch.stack(out)


class AutogradGaussNewton:
    """Gauss-Newton and conjugate gradient on a list of parameters, by double backward."""

    def __init__(self, precondition: Sequence[float], *, fletcher_reeves=False, forget=0.0):
        self.precondition = list(precondition)
        self.fletcher_reeves, self.forget = fletcher_reeves, forget
        self.p = self.rho = self.residual = None

    def run(self, residuals, w: list[Tensor], steps: Sequence[int]) -> list[Tensor]:
        """``residuals(w)`` gives a list of tensors; returns the new parameters."""
        for count in steps:
            w = [v.detach().requires_grad_() for v in w]
            with torch.enable_grad():
                r = residuals(w)
                dual = [torch.ones_like(v).requires_grad_() for v in r]
                jt_dual = torch.autograd.grad(r, w, dual, create_graph=True)

            def transposed(t, r=r, w=w):
                return torch.autograd.grad(r, w, t, retain_graph=True)

            def product(p, dual=dual, jt_dual=jt_dual, transposed=transposed):
                return transposed(torch.autograd.grad(jt_dual, dual, p, retain_graph=True))

            b = [-v for v in transposed([v.detach() for v in r])]
            x = self._solve(product, b, count)
            w = [(v + d).detach() for v, d in zip(w, x)]
        return w

    def _solve(self, product, b, count):
        def inner(u, v):
            return sum((a * c).sum() for a, c in zip(u, v))

        if self.forget == 0:
            self.p = None
        elif self.p is not None:
            self.rho = self.rho / self.forget
        x, res = [torch.zeros_like(v) for v in b], b
        for i in range(count):
            z = [v / m for v, m in zip(res, self.precondition)]
            before, self.rho = self.rho, inner(res, z)
            if self.p is None:
                self.p = z
            else:
                top = self.rho if self.fletcher_reeves else self.rho - inner(self.residual, z)
                beta = torch.clamp(top / before, min=0)
                self.p = [v + beta * p for v, p in zip(z, self.p)]
            q = product(self.p)
            alpha = self.rho / inner(self.p, q)
            self.residual = res
            x = [v + alpha * p for v, p in zip(x, self.p)]
            if i < count - 1:
                res = [v - alpha * a for v, a in zip(res, q)]
        return x


def data_residuals(x: Tensor, y: Tensor, v: Tensor, g: Tensor, filter_reg: Sequence[float]):
    """Residual function of one or two layers: x (K, C, h, w), y, v (K, 1, H, W), g (K,)."""

    def residuals(w):
        project, weight = (w[0], w[1]) if len(w) == 2 else (None, w[0])
        up = F.interpolate(
            target_scores(x, project, weight), y.shape[-2:], mode="bilinear", align_corners=False
        )
        data = g.sqrt().view(-1, 1, 1, 1) * v * (up - y)
        return [data, *(f * p for f, p in zip(filter_reg, w))]

    return residuals


class PlainNetwork(nn.Module):
    """Runs a SegmentationNetwork's layers as the paper draws them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.n = network

    def block(self, rrb: nn.Module, x: Tensor) -> Tensor:
        x = rrb.conv1x1(x)
        return F.relu(x + rrb.bblock(x))

    def forward(self, scores: Tensor, features: dict[str, Tensor], size) -> Tensor:
        n, d = self.n, None
        for name in ("layer5", "layer4", "layer3", "layer2"):
            x = features[name]
            s = F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)
            h = n.TSE[name].reduce(x)
            u = n.TSE[name].transform(torch.cat([h, s], 1))
            if d is None:
                d = F.adaptive_avg_pool2d(h, 1)
            u = self.block(n.RRB1[name], u)
            pooled = [F.adaptive_avg_pool2d(t, 1) for t in (u, d)]
            gate = torch.sigmoid(n.CAB[name].convreluconv(torch.cat(pooled, 1)))
            if d.shape[-2:] == (1, 1):
                d = d.expand_as(u)
            d = u * gate + F.interpolate(d, u.shape[-2:], mode="bilinear", align_corners=False)
            d = self.block(n.RRB2[name], d)
        up = F.interpolate(d, scale_factor=2, mode="bicubic", align_corners=False)
        up = F.relu(n.project.conv1(up))
        up = F.interpolate(up, scale_factor=2, mode="bicubic", align_corners=False)
        if up.shape[-2:] != tuple(size):
            up = F.interpolate(up, size, mode="bilinear", align_corners=False)
        return n.project.conv2(up)


class PlainBackbone(nn.Module):
    """torchvision's ResNet with batch norm where it is."""

    def __init__(self, depth: int, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = models.get_model(f"resnet{depth}", weights=None)
        self.net.fc = nn.Identity()
        self.net.load_state_dict(state)
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of a uint8 RGB image (3, H, W)."""
        n = self.net
        x = n.maxpool(n.relu(n.bn1(n.conv1(((image.float() / 255 - MEAN) / STD)[None]))))
        out = {}
        for i, stage in enumerate((n.layer1, n.layer2, n.layer3, n.layer4), 2):
            x = out[f"layer{i}"] = stage(x)
        return out


class PlainTracker:
    """One object: the authors' algorithm step by step, with full-resolution memory."""

    def __init__(self, backbone, network, options) -> None:
        self.backbone, self.network, self.o = backbone, network, options
        self.optimizer = None

    def make_samples(self, image: np.ndarray, mask: np.ndarray, rng) -> tuple[list, list]:
        """All 19 augmented pairs, of which the first four are kept (they are in random order)."""
        scene = augmentation._Scene(image, mask.astype(np.uint8), self.o.fill)
        pairs = [scene.paste(a, b) for a, b in augmentation.draw_warps(19, mask.shape, rng)]
        kept = pairs[: self.o.samples - 1]
        return [image, *(p[0] for p in kept)], [mask, *(p[1] for p in kept)]

    def features4(self, images) -> Tensor:
        parts = [self.backbone(torch.from_numpy(im).permute(2, 0, 1)) for im in images]
        return torch.cat([p["layer4"] for p in parts])

    def start(self, image: np.ndarray, mask: np.ndarray, w: list[Tensor], rng) -> None:
        images, masks = self.make_samples(image, mask, rng)
        x = self.features4(images)
        self.learn_first(x, torch.from_numpy(np.stack(masks))[:, None].float(), w)

    def gauss_newton(self, layers: slice) -> AutogradGaussNewton:
        o = self.o
        return AutogradGaussNewton(
            o.precondition[layers],
            fletcher_reeves=o.cg_variant == "fletcher_reeves",
            forget=0.9**o.cg_forget_rate if o.cg_forget_rate else 0.0,
        )

    def learn_first(self, x: Tensor, y: Tensor, w: list[Tensor]) -> None:
        o = self.o
        k, c, size = len(x), w[0].shape[0], y.shape[-2:]
        g = torch.ones(k)
        g[0] = 2
        g = g / g.sum()
        v = root_pixel_weights(y)
        w = self.gauss_newton(slice(None)).run(
            data_residuals(x, y, v, g, o.filter_reg), w, o.init_steps
        )
        self.project, self.weight = w
        self.x = torch.zeros(o.capacity, c, *x.shape[-2:])
        self.y, self.v = torch.zeros(2, o.capacity, 1, *size)
        self.g, self.last, self.count = torch.zeros(o.capacity), None, 0
        self.x[:k], self.y[:k], self.v[:k], self.g[:k] = F.conv2d(x, self.project), y, v, g
        self.optimizer = self.gauss_newton(slice(1, None))
        self.update()

    def update(self) -> None:
        used = self.g > 0
        residuals = data_residuals(
            self.x[used], self.y[used], self.v[used], self.g[used], self.o.filter_reg[1:]
        )
        (self.weight,) = self.optimizer.run(residuals, [self.weight], self.o.update_steps)

    def insert(self, x: Tensor, y: Tensor) -> None:
        eta, slot = self.o.eta, int(self.g.argmin())
        if self.last is None:
            self.g = self.g / (1 - eta)
            self.g[slot] = eta
        else:
            self.g[slot] = self.g[self.last] / (1 - eta)
        self.g, self.last = self.g / self.g.sum(), slot
        self.x[slot], self.y[slot] = F.conv2d(x, self.project)[0], y[0]
        self.v[slot] = root_pixel_weights((y > 0.5).float())[0]

    @torch.no_grad()
    def step(self, image: np.ndarray) -> Tensor:
        """Segment a frame, learn from it, return the mask (H, W)."""
        features = self.backbone(torch.from_numpy(image).permute(2, 0, 1))
        scores = target_scores(features["layer4"], self.project, self.weight)
        logits = self.network(scores, features, image.shape[:2])
        plane = merged_plane(torch.sigmoid(logits)[0, 0])
        again = merged_plane(plane)
        self.count += 1
        if int((plane > 0.5).sum()) >= 10:
            self.insert(features["layer4"], plane[None, None])
            if self.o.interval and self.count % self.o.interval == 0:
                self.update()
        return again > 0.5


def merged_plane(p: Tensor) -> Tensor:
    """Softmax of the odds of object and background, zero where the background wins."""
    p = p.clamp(1e-7, 1 - 1e-7)
    odds = torch.softmax(torch.stack([(1 - p) / p, p / (1 - p)]), 0)
    return torch.where(odds[1] > odds[0], odds[1], 0.0)
