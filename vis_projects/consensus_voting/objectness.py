"""Where an image shows something that ImageNet has a name for.

Letters: h x w cells of the classifier's last map, K its classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modeling import Preprocess, shortest_edge
from ..modeling.backbones.timm_classifier import build_timm_classifier, classifier_pixels
from ..structures import Frame, InputError


class Objectness(nn.Module):
    """A timm classifier of ImageNet whose last layer looks at every cell by itself.

    Args:
        name: of the network in timm; one that averages its last map and has one linear layer.
        pretrained: it brings ImageNet's weights along.
        size: shortest edge of what it sees.
        frame_format: channel order of the frames.

    Raises:
        InputError: a network of another kind, or without weights.
    """

    def __init__(
        self, name: str, *, pretrained: bool = True, size: int = 320, frame_format: str = "BGR"
    ) -> None:
        super().__init__()
        self.net = build_timm_classifier(name, pretrained=pretrained).requires_grad_(False).eval()
        linear = self.net.get_classifier()
        if not isinstance(linear, nn.Linear) or linear.in_features != self.net.num_features:
            raise InputError(
                f"MODEL.TIMM.NAME {name}: its classifier has no map to look at; set "
                "MODEL.CONSENSUS_VOTING.OBJECTNESS 0"
            )
        self.preprocess = Preprocess(
            *classifier_pixels(name),
            size_rule=shortest_edge(size, 4 * size),
            frame_format=frame_format,
            network_format="RGB",
        )

    def train(self, mode: bool = True) -> Objectness:
        """Nothing learns here."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frame: Frame) -> Tensor:
        """Return the log of the sum of all classes' exponentiated logits, (h, w)."""
        maps = self.net.forward_features(self.preprocess([frame]).tensor)
        logits = self.net.get_classifier()(maps[0].permute(1, 2, 0))
        return logits.float().logsumexp(-1)
