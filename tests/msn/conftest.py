"""Videos whose objects are known, a detector that reads them off, and pipelines built of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from vis_projects.copy_first import CopyFirstPropagator
from vis_projects.modeling import Preprocess, Propagator
from vis_projects.msn.association import StageTwoRules
from vis_projects.msn.chooser import MaskChooser
from vis_projects.msn.final_tracks import StageThreeRules
from vis_projects.msn.model import MSN
from vis_projects.msn.selection_network import PatchSelector
from vis_projects.structures import ArraySource

SIZE = (40, 56)


class ColourDetector(nn.Module):
    """Finds objects by their grey value: value 10 k + 5 is an object of class k with score 0.9.

    ``blind`` (frame, class) pairs are not detected. Frames tell their number by their first pixel.
    """

    def __init__(self, blind: set[tuple[int, int]] = frozenset(), scores: float = 0.9) -> None:
        super().__init__()
        self.blind, self.scores, self.calls = blind, scores, []

    def forward(self, items: list[dict]) -> list[dict]:
        image = items[0]["image"][0]
        index = int(image[0, 0]) - 200
        self.calls.append(index)
        values = [int(v) for v in torch.unique(image) if v < 200 and v > 0]
        values = [v for v in values if (index, v // 10) not in self.blind]
        instances = Instances(tuple(image.shape))
        masks = [image == v for v in values]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *image.shape).bool()
        instances.pred_boxes = Boxes(torch.zeros(len(values), 4))
        instances.scores = torch.full((len(values),), self.scores)
        instances.pred_classes = torch.tensor([v // 10 for v in values], dtype=torch.int64)
        return [{"instances": instances}]


def draw_scene(frames: int, objects: dict[int, Callable[[int], int | None]]) -> ArraySource:
    """A video in which an object of each class k stands at column ``objects[k](t)``, if any."""
    images = np.zeros((frames, *SIZE, 3), np.uint8)
    for t in range(frames):
        for k, column in objects.items():
            if column(t) is not None:
                row = 3 + 9 * (k % 4)
                images[t, row : row + 7, column(t) : column(t) + 8] = 10 * k + 5
        images[t, 0, 0] = 200 + t
    return ArraySource(images, image_format="RGB")


@pytest.fixture
def scene() -> Callable[..., ArraySource]:
    """Return ``draw_scene``."""
    return draw_scene


@pytest.fixture
def colour_detector() -> type[ColourDetector]:
    """Return the class of the simple detector."""
    return ColourDetector


@pytest.fixture
def pipeline() -> Callable[..., MSN]:
    """Return a function that builds an MSN of simple parts; arguments replace them."""

    def build(
        detector: nn.Module | None = None,
        propagator: Propagator | None = None,
        *,
        rules: dict | None = None,
        final: dict | None = None,
        **options,
    ) -> MSN:
        torch.manual_seed(0)
        model = MSN(
            detector=detector or ColourDetector(),
            propagator=propagator or CopyFirstPropagator(),
            chooser=MaskChooser(PatchSelector(width=4, layers=2), size=32),
            resize=Preprocess([0.0] * 3, [1.0] * 3),
            rules=StageTwoRules(**(rules or {})),
            final_rules=StageThreeRules(**(final or {})),
            input_format="RGB",
            **options,
        )
        return model.eval()

    return build
