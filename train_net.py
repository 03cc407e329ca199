#!/usr/bin/env python
"""Train or evaluate any system, on one or many processes.

python train_net.py --config-file configs/quickstart.yaml
python train_net.py --config-file C --resume
python train_net.py --config-file C --eval-only MODEL.WEIGHTS W.pth
python train_net.py --config-file C --num-gpus 8 SOLVER.MAX_ITER 1000
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.engine import evaluate, load_weights
from vis_projects.structures import InputError


def setup(args) -> CfgNode:
    """Read the config and set up logs and seeds."""
    cfg = load_config(args.config_file, args.opts)
    if not torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args) -> dict:
    cfg = setup(args)
    model = build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS)
    return evaluate(cfg, model)


if __name__ == "__main__":
    arguments = default_argument_parser(__doc__).parse_args()
    try:
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
            timeout=timedelta(days=7),
        )
    except InputError as error:
        sys.exit(f"train_net.py: {error}")
