"""What is computed in another order than it is written: equal to the direct form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vis_projects.cfbi.enlarging import conv3x3_of_enlarged
from vis_projects.cfbi.ensembler import Bottleneck, GatedBranch, energy_of, scaled, scaled_conv1x1
from vis_projects.cfbi.extractor import FeatureExtractor
from vis_projects.cfbi.matching import ReferencePixels, global_distances
from vis_projects.cfbi.network import CFBINetwork, Embedded

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sizes", [((4, 6), (13, 21)), ((1, 1), (1, 1)), ((2, 1), (5, 1))])
def test_enlarged_convolution(mode: str, sizes) -> None:
    torch.manual_seed(0)
    small, large = sizes
    x, weight = torch.randn(2, 5, *small), torch.randn(3, 5, 3, 3)
    wanted = F.conv2d(F.interpolate(x, large, mode=mode, align_corners=True), weight, padding=1)
    found = conv3x3_of_enlarged(x, weight, large, mode=mode)
    assert torch.allclose(found, wanted, atol=1e-9)


def gct(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """GCT as the paper writes it, on the map itself."""
    energy = module.alpha * (x.square().sum((2, 3), keepdim=True) + 1e-5).sqrt()
    norm = module.gamma / (energy.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return x * (1 + torch.tanh(energy * norm + module.beta))


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("out", [16, 32])
def test_gates_in_the_weights(stride: int, out: int) -> None:
    """A bottleneck on a gated map, step by step; one shape without a shortcut convolution."""
    torch.manual_seed(0)
    block = randomised(Bottleneck(16, out, stride))
    x, gate = torch.randn(3, 16, 7, 6), torch.rand(3, 16) * 2
    gated = x * gate[..., None, None]
    y = F.relu(block.bn1(block.conv1(gct(block.GCT1, gated))))
    y = block.bn3(block.conv3(F.relu(block.bn2(block.conv2(y)))))
    shortcut = gated if block.downsample is None else block.downsample(gated)
    assert torch.allclose(block(x, gate), F.relu(y + shortcut), atol=1e-9)
    assert torch.allclose(
        scaled_conv1x1(x, gate, block.conv1), block.conv1(scaled(x, gate)), atol=1e-9
    )


def test_branch_takes_the_energy() -> None:
    torch.manual_seed(0)
    branch = randomised(GatedBranch(8, 16, 6))
    x = torch.randn(2, 8, 5, 4)
    wanted = F.relu(branch.bn(branch.atrous_conv(gct(branch.GCT, x))))
    assert torch.allclose(branch(x, energy_of(x)), wanted, atol=1e-9)


@torch.no_grad()
def test_folded_norms_follow_the_weights() -> None:
    """At test the folded copy equals the plain network, also after weights changed in place."""
    torch.manual_seed(0)
    net = FeatureExtractor(18, 32, norm="BN")
    net(torch.randn(2, 3, 33, 33))  # statistics that are not the initial ones
    net.eval()
    image = torch.randn(1, 3, 33, 49)
    for _ in range(2):
        for found, wanted in zip(net(image), net._extract(image)):
            assert torch.allclose(found, wanted, atol=1e-9)
        net.backbone.conv1.weight.mul_(1.5)
        net.decoder.last_conv[1].bias.add_(0.1)
    assert not any("_folded" in key for key in net.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_objects_may_come_in_parts(batch: int) -> None:
    torch.manual_seed(0)
    net = CFBINetwork(depth=18, width=32, embedding_dim=16, head_width=32, norm="GN").eval()
    embedded = net.embed(torch.randn(2, 3, 33, 49))
    labels = torch.randint(0, 4, (33, 49))
    references = [(Embedded(embedded[0].embedding), labels)]
    whole = net(embedded[1], references, references[0], 4)
    net.objects_per_batch = batch
    assert torch.allclose(net(embedded[1], references, references[0], 4), whole, atol=1e-9)


def test_gradients_go_to_the_nearest_pixels() -> None:
    torch.manual_seed(0)
    query, reference = (torch.randn(4, 5, 6, requires_grad=True) for _ in range(2))
    labels = torch.randint(0, 3, (5, 6))  # plane 2 of 4 exists, plane 3 has no pixel
    pixels = ReferencePixels.collect([reference], [labels], 4, dtype=torch.float64)
    found = global_distances(query, pixels)
    found[:3].square().sum().backward()
    gradients = query.grad.clone(), reference.grad.clone()
    query.grad = reference.grad = None
    squares = (query.flatten(1).T[:, None] - reference.flatten(1).T[None]).square().sum(-1)
    wanted = torch.stack([squares[:, labels.flatten() == o].amin(1) for o in range(3)])
    wanted.square().sum().backward()
    assert torch.allclose(found[:3].flatten(1), wanted, atol=1e-9)
    assert torch.allclose(gradients[0], query.grad, atol=1e-9)
    assert torch.allclose(gradients[1], reference.grad, atol=1e-9)
    assert (found[3] == 5e4).all()
