#!/usr/bin/env python
"""Train or evaluate any system, on one or many processes.

python train_net.py --config-file configs/quickstart.yaml
python train_net.py --config-file C --resume
python train_net.py --config-file C --eval-only MODEL.WEIGHTS W.pth
python train_net.py --config-file C --num-gpus 8 SOLVER.MAX_ITER 1000
torchrun --nproc-per-node 8 train_net.py --config-file C

--resume continues after OUTPUT_DIR/last_checkpoint. --num-gpus 0 uses the CPU; without CUDA,
--num-gpus N starts N processes on the CPU. Options come last, as KEY VALUE pairs.
"""

from __future__ import annotations

import sys

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing.spawn import ProcessExitedException

from vis_projects.config import load_config
from vis_projects.engine import (
    VideoTrainer,
    evaluate,
    load_weights,
    run_distributed,
    write_scores,
)
from vis_projects.structures import InputError


def setup(args) -> CfgNode:
    """Read the config and set up logs and seeds."""
    cfg = load_config(args.config_file, args.opts)
    if args.num_gpus == 0 or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="vis_projects", abbrev_name="vis")
    return cfg


def main(args) -> dict | None:
    """One process: evaluate, or train and evaluate; returns the scores."""
    cfg = setup(args)
    if args.eval_only:
        model = build_model(cfg)
        if cfg.MODEL.WEIGHTS:
            load_weights(model, cfg.MODEL.WEIGHTS)
        scores = evaluate(cfg, model)
        if comm.is_main_process():
            write_scores(cfg, scores)
        return scores
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args) -> None:
    """``main``, with bad input told in one line, in whichever process it is found."""
    try:
        main(args)
    except InputError as error:
        print(f"train_net.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    arguments = default_argument_parser(__doc__).parse_args()
    try:
        run_distributed(run, arguments)
    except ProcessExitedException as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit("train_net.py: stopped; --resume continues after the last checkpoint")
