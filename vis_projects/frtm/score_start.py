"""A start for the segmentation network: D's score passes through it unchanged (ours).

From here training begins at D's own result instead of at "everything is background", which a small
training may never leave.
"""

from __future__ import annotations

import torch
from torch import nn

from .segmentation_network import WIDTH, SegmentationNetwork

GAIN = 2.0  # logits per unit of score and level; four levels add up, halved by their gates


@torch.no_grad()
def start_from_scores(network: SegmentationNetwork) -> None:
    """Set the weights so that the logits are a rising function of the score, 0 at one half.

    Channel 0 of every level carries the score: convolutions pass it on by their central tap, the
    channel attention adds the levels up (gates of one half), the head reads it out. All other
    weights keep their draw; those of the head are scaled down.
    """
    for encoder in network.TSE.values():
        first, second, third = (encoder.transform[i] for i in (0, 2, 4))
        _pass_on(first, WIDTH, WIDTH)
        _pass_on(second, WIDTH, WIDTH)
        _pass_on(third, 0, WIDTH)
        _silence(encoder.reduce[2], 0)  # the deepest level's average joins channel 0
    for blocks in (network.RRB1, network.RRB2):
        for block in blocks.values():
            _pass_on(block.conv1x1, 0, 0)
            block.bblock[3].weight[0] = 0
    for attention in network.CAB.values():
        _silence(attention.convreluconv[2], 0)  # sigmoid(0): one half
    head = network.project
    _pass_on(head.conv1, 0, 0)
    head.conv2.weight.mul_(0.1)
    head.conv2.weight[0, 0] = 0
    levels = len(network.layers)
    head.conv2.weight[0, 0, 1, 1] = 2 * GAIN
    head.conv2.bias[0] = -2 * GAIN * levels * 0.5 * 0.5


def _pass_on(conv: nn.Conv2d, out: int, source: int) -> None:
    """Let output channel ``out`` be input channel ``source``."""
    conv.weight[out] = 0
    centre = conv.kernel_size[0] // 2
    conv.weight[out, source, centre, centre] = 1
    if conv.bias is not None:
        conv.bias[out] = 0


def _silence(conv: nn.Conv2d, out: int) -> None:
    conv.weight[out] = 0
    conv.bias[out] = 0
