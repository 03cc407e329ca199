"""Train any system, on one or many processes; it scores itself on DATASETS.TEST.

vis train --config-file configs/quickstart.yaml
vis train --config-file C --resume
vis train --config-file C --num-gpus 8 SOLVER.MAX_ITER 1000
torchrun --nproc-per-node 8 -m vis_projects train --config-file C

--resume continues after OUTPUT_DIR/last_checkpoint. --num-gpus 0 uses the CPU; without CUDA,
--num-gpus N starts N processes on the CPU. Options come last, as KEY VALUE pairs.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue after the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier training in OUTPUT_DIR, which is otherwise kept",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="score MODEL.WEIGHTS, as vis eval does"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and evaluation share."""
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config: your own or a shipped one"
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where processes meet, tcp://HOST:PORT; by default a free port of this machine",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides, last")


def run(args: argparse.Namespace) -> int:
    return run_and_report(args)


def run_and_report(args: argparse.Namespace) -> int:
    """Do the job and leave ``report.html``, whose path is the last line of the log."""
    from ..engine.job import Job, run_job
    from ..report.run_report import report_on_job
    from ..structures.errors import PartlyDone

    job = Job.from_args(args)
    try:
        run_job(job)
    except PartlyDone:
        report_on_job(job.config_file, job.opts)
        raise
    report_on_job(job.config_file, job.opts)
    return 0
