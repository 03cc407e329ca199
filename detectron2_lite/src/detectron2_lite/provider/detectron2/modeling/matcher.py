"""Assignment of predictions to ground truth by a quality matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Matcher:
    """Gives each prediction its best ground truth and a label by thresholds on the quality."""

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
    ):
        """``thresholds``: positive, ascending; ``labels``: one more, each -1 ignore, 0 or 1.

        Quality in [thresholds[i-1], thresholds[i]) gets labels[i]. With
        ``allow_low_quality_matches`` whatever ties the best quality of a ground truth becomes 1.
        """
        assert thresholds and thresholds[0] > 0, f"thresholds must be positive: {thresholds}"
        assert list(thresholds) == sorted(thresholds), f"thresholds must ascend: {thresholds}"
        assert set(labels) <= {-1, 0, 1}, f"labels must be -1, 0 or 1: {labels}"
        assert len(labels) == len(thresholds) + 1, f"{len(labels)} labels for {thresholds}"
        self.thresholds = [-float("inf"), *thresholds, float("inf")]
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match from qualities (M ground truths, N predictions), none negative.

        Returns the index of the best ground truth (N,) int64, 0 if M is 0, and labels (N,) int8.
        """
        quality = match_quality_matrix
        assert quality.dim() == 2, f"the quality matrix must be (M, N), not {tuple(quality.shape)}"
        count = quality.size(1)
        if quality.numel() == 0:
            labels = quality.new_full((count,), self.labels[0], dtype=torch.int8)
            return quality.new_zeros((count,), dtype=torch.int64), labels
        best, index = quality.max(dim=0)
        labels = torch.ones_like(index, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds[:-1], self.thresholds[1:]):
            labels[(best >= low) & (best < high)] = label
        if self.allow_low_quality_matches:
            ties = (quality == quality.max(dim=1, keepdim=True).values).any(dim=0)
            labels[ties] = 1
        return index, labels
