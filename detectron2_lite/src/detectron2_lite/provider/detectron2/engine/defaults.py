"""The usual way to set up, train, evaluate and predict.

Modules that build models and data are imported where they are needed, so that a script's ``--help``
does not wait for them.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from detectron2.engine.train_loop import (
    AMPTrainer,
    SimpleTrainer,
    TrainerBase,
)
from detectron2.engine.train_loop import (
    HookBase as _HookBase,
)
from detectron2.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    JSONWriter,
    TensorboardXWriter,
)
from detectron2.utils.events import (
    EventWriter as _EventWriter,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

_WRITER_PERIOD = 20  # iterations


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any):
    """Wrap the model for data-parallel training; a world of one gets the model itself.

    ``kwargs`` go to DistributedDataParallel; ``fp16_compression`` halves what is sent.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs:
        on_gpu = all(p.is_cuda for p in model.parameters())
        kwargs["device_ids"] = [comm.get_local_rank()] if on_gpu else None
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default as comm_hooks

        ddp.register_comm_hook(state=None, hook=comm_hooks.fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of a training script; ``KEY VALUE`` pairs come after all flags."""
    script = sys.argv[0]
    parser = argparse.ArgumentParser(
        epilog=epilog
        or f"""
Examples:

One machine:
    $ {script} --num-gpus 8 --config-file cfg.yaml

Change options of the configuration:
    $ {script} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001

Two machines:
    (machine 0) $ {script} --machine-rank 0 --num-machines 2 --dist-url tcp://HOST:PORT
    (machine 1) $ {script} --machine-rank 1 --num-machines 2 --dist-url tcp://HOST:PORT
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="configuration file")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs on each machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine, from 0")
    # Two users of one machine must not meet on one port.
    user = os.getuid() if hasattr(os, "getuid") else 1
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{2**15 + 2**14 + user % 2**14}",
        help="where the processes meet, see torch.distributed.init_process_group",
    )
    parser.add_argument(
        "opts",
        default=None,
        nargs=argparse.REMAINDER,
        help="options of the configuration as 'KEY VALUE' pairs, after all flags",
    )
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make OUTPUT_DIR, loggers and ``config.yaml``, log the environment, seed the generators."""
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir or None, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "r") as f:
            logger.info("Contents of args.config_file=%s:\n%s", args.config_file, f.read())
    if comm.is_main_process() and output_dir:
        text = cfg.dump()
        logger.info("Running with full config:\n%s", text)
        path = os.path.join(output_dir, "config.yaml")
        with PathManager.open(path, "w") as f:
            f.write(text)
        logger.info("Full config saved to %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        # Inference often meets many sizes, for which searching algorithms does not pay.
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[_EventWriter]:
    """Return writers to the terminal, to ``metrics.json`` and to TensorBoard files."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """A model with its weights that predicts one image at a time.

    ``metadata`` is that of the first test set, if there is one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        from detectron2.data import MetadataCatalog
        from detectron2.data.transforms import ResizeShortestEdge
        from detectron2.modeling import build_model

        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        short, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        self.aug = ResizeShortestEdge([short, short], longest)
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), self.input_format

    def __call__(self, original_image: np.ndarray) -> dict:
        """Return the model's output for an image (H, W, 3), BGR uint8, at the image's own size."""
        if np.ndim(original_image) != 3:
            raise ValueError(
                f"original_image has {np.ndim(original_image)} dimensions: give a uint8 array "
                "(rows, columns, 3) in BGR order, for example cv2.imread(file)"
            )
        with torch.no_grad():
            if self.input_format == "RGB":
                original_image = original_image[:, :, ::-1]
            height, width = original_image.shape[:2]
            image = self.aug.get_transform(original_image).apply_image(original_image)
            tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
            tensor = tensor.to(self.cfg.MODEL.DEVICE)
            return self.model([{"image": tensor, "height": height, "width": width}])[0]


def _of_inner_trainer(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """Builds everything from the configuration and trains.

    The ``build_*`` class methods are there to be overridden. Attributes: ``cfg, model, optimizer,
    data_loader, scheduler, checkpointer, start_iter, max_iter, iter``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # The proxy keeps the trainer and its checkpointer from holding each other alive.
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint if asked and there is one.

        Otherwise load MODEL.WEIGHTS into the model and start at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the stored iteration is finished

    def build_hooks(self) -> list[_HookBase | None]:
        """Return the hooks in the order in which they are called."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # for the loader of PreciseBN
        precise_bn = None
        if cfg.TEST.PRECISE_BN.ENABLED and _has_trained_norms(self.model):
            precise_bn = hooks.PreciseBN(
                cfg.TEST.EVAL_PERIOD,
                self.model,
                self.build_train_loader(cfg),
                cfg.TEST.PRECISE_BN.NUM_ITER,
            )
        chosen = [hooks.IterationTimer(), hooks.LRScheduler(), precise_bn]
        # Before the evaluation: a failure there must not lose the model.
        if comm.is_main_process():
            chosen.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )

        def test_and_save_results() -> dict:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        chosen.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results))
        if comm.is_main_process():
            # Last, so that everything of this iteration is written.
            chosen.append(hooks.PeriodicWriter(self.build_writers(), period=_WRITER_PERIOD))
        return chosen

    def build_writers(self) -> list[_EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict | None:
        """Train; return the last results if TEST.EXPECTED_RESULTS is set and they meet it.

        If they do not, the process ends with exit code 1.
        """
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "no evaluation results at the end"
            if not verify_results(self.cfg, self._last_eval_results):
                sys.exit(1)
            return self._last_eval_results
        return None

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    # What hooks and users look for here belongs to the inner trainer.
    model = _of_inner_trainer("model")
    optimizer = _of_inner_trainer("optimizer")
    data_loader = _of_inner_trainer("data_loader")

    def before_train(self) -> None:
        self._trainer.storage = self.storage
        super().before_train()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        from detectron2.modeling import build_model

        model = build_model(cfg)
        logging.getLogger(__name__).info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        from detectron2.solver import build_optimizer

        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        from detectron2.solver import build_lr_scheduler

        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        from detectron2.data import build_detection_train_loader

        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        from detectron2.data import build_detection_test_loader

        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a test set; to be overridden."""
        raise NotImplementedError(
            f"{cls.__name__}.build_evaluator: override it, or pass evaluators to test()"
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate on DATASETS.TEST; one data set gives its dict, several ``{name: dict}``."""
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        if evaluators is not None:
            assert len(evaluators) == len(names), (
                f"{len(evaluators)} evaluators for {len(names)} test sets"
            )
        results: OrderedDict = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            if evaluators is not None:
                evaluator = evaluators[index]
            else:
                try:
                    evaluator = cls.build_evaluator(cfg, name)
                except NotImplementedError as error:
                    logger.warning("No evaluation of %s: %s", name, error)
                    results[name] = {}
                    continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        if len(results) == 1:
            return next(iter(results.values()))
        return results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Adapt batch, learning rate and iterations from REFERENCE_WORLD_SIZE to the real one.

        Returns ``cfg`` itself where nothing is to be done, else a changed copy.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        solver = cfg.SOLVER
        assert solver.IMS_PER_BATCH % reference == 0, (
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is no multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}"
        )
        scale = num_workers / reference
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR *= scale
        solver.MAX_ITER = round(solver.MAX_ITER / scale)
        solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
        solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
        solver.CHECKPOINT_PERIOD = round(solver.CHECKPOINT_PERIOD / scale)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logging.getLogger(__name__).info(
            "%d workers instead of %d: batch %d, learning rate %g, iterations %d, warm-up %d",
            num_workers,
            reference,
            solver.IMS_PER_BATCH,
            solver.BASE_LR,
            solver.MAX_ITER,
            solver.WARMUP_ITERS,
        )
        if frozen:
            cfg.freeze()
        return cfg


def _has_trained_norms(model: nn.Module) -> bool:
    return any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()
    )
