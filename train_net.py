#!/usr/bin/env python
"""Train or evaluate any system, on one or many processes: `vis train`, `vis eval`.

python train_net.py --config-file configs/quickstart.yaml
python train_net.py --config-file C --resume
python train_net.py --config-file C --eval-only MODEL.WEIGHTS W.pth
python train_net.py --config-file C --num-gpus 8 SOLVER.MAX_ITER 1000
torchrun --nproc-per-node 8 train_net.py --config-file C
"""

import sys

from vis_projects.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("train", prog="train_net.py"))
