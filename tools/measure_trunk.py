"""Measure the channel statistics of a pretrained timm network's maps over a folder of images.

    python tools/measure_trunk.py tf_efficientnet_lite0 coco_clean/images statistics.json

MODEL.TIMM.STANDARDISE takes the file. The ones that come along were made on the first 40 images of
coco_clean by name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import torch

import vis_projects  # noqa: F401  finds Detectron2
from vis_projects.modeling.backbones.pretrained_trunk import pixel_statistics
from vis_projects.modeling.backbones.timm_backbone import TimmBackbone


@torch.no_grad()
def measure(name: str, files: list[Path]) -> dict[str, dict[str, list[float]]]:
    """Return mean and deviation of every channel of every map."""
    trunk = TimmBackbone(name, pretrained=True, frozen=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in pixel_statistics(name))
    sums: dict[str, list] = {}
    for file in files:
        image = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)
        for level, x in trunk(((image.float() - mean) / std)[None]).items():
            x = x[0].flatten(1).double()
            entry = sums.setdefault(level, [0, 0.0, 0.0])
            entry[0] += x.shape[1]
            entry[1] = entry[1] + x.sum(1)
            entry[2] = entry[2] + (x * x).sum(1)
    out = {}
    for level, (count, total, squares) in sums.items():
        centre = total / count
        spread = (squares / count - centre**2).clamp(min=1e-8).sqrt()
        out[level] = {
            key: [float(f"{v:.5g}") for v in values.tolist()]
            for key, values in (("mean", centre), ("std", spread))
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the network in timm")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("output", type=Path, help="json to write")
    parser.add_argument("--count", type=int, default=40, help="images to read, by name")
    args = parser.parse_args()
    files = sorted(args.images.glob("*.jpg"))[: args.count]
    content = {"network": args.name, "images": len(files), "channels": measure(args.name, files)}
    args.output.write_text(json.dumps(content) + "\n")
    print(f"{args.output}: {len(files)} images")


if __name__ == "__main__":
    main()
