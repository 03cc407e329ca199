"""The trainer of every system: Detectron2's DefaultTrainer interface, on any device."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    TrainerBase,
    create_ddp_model,
    default_writers,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm
from torch import nn

from ..data import build_test_loader, build_train_loader
from ..data.catalog.class_names import class_ids_of, training_class_names
from ..data.class_check import (
    check_test_classes,
    check_training_classes,
    classes_key,
    get_option,
    with_counts_of_training,
)
from ..structures import InputError
from ..weights import load_for_training, make_card, own_weights_later
from .best_checkpoint import BestHook, EarlyStop
from .checkpointer import VideoCheckpointer, remove_parts, save_weights
from .event_writers import registered_event_writers
from .inference import evaluate, make_evaluator, results_folder
from .model_average import ModelAverage
from .random_state import RandomStates, deterministic_algorithms, kept_random_state
from .run_log import FILE_ONLY
from .showcase import write_overlay, write_scores
from .solver import build_clipping, build_lr_scheduler, build_optimizer, resolve_epochs
from .stopping import StopHook
from .training_hooks import AverageHook, CheckpointHook, CurvesHook, LoadingHook, drop_metrics_from
from .training_step import TrainingStep, autocast_dtype, split

logger = logging.getLogger(__name__)
_WRITE_PERIOD = 20  # iterations between lines of the log


class VideoTrainer(DefaultTrainer):
    """Trains a model that returns a dict of losses.

    Compared with the DefaultTrainer it runs on CPUs and under mixed precision anywhere,
    accumulates gradients, clips them as a whole, averages weights, and resumes exactly: on a CPU
    an interrupted run ends with the same bits as an uninterrupted one. The ``build_*`` class
    methods may be overridden.

    Raises:
        InputError: options or data that do not fit, before anything is trained.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's own constructor cannot train on CPUs
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        cfg = with_counts_of_training(cfg)
        check_training_classes(cfg)
        data_loader = self.build_train_loader(cfg)
        if hasattr(data_loader, "dataset"):
            cfg = resolve_epochs(cfg, len(data_loader.dataset))
        self._check(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        on_gpu = next(model.parameters()).is_cuda
        device_ids = [torch.cuda.current_device()] if on_gpu else None
        wrapped = create_ddp_model(
            model,
            broadcast_buffers=False,
            device_ids=device_ids,
            find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        )
        self._trainer = TrainingStep(
            wrapped,
            data_loader,
            optimizer,
            amp_dtype=autocast_dtype(cfg, next(model.parameters()).device),
            accumulate=cfg.SOLVER.ACCUMULATE_STEPS,
            clip=build_clipping(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.average = None
        if cfg.MODEL_EMA.ENABLED:
            self.average = ModelAverage(
                model, decay=cfg.MODEL_EMA.DECAY, warmup=cfg.MODEL_EMA.WARMUP
            )
        self.random_states = RandomStates()
        parts: dict[str, Any] = {"trainer": weakref.proxy(self), "rng": self.random_states}
        if self.average is not None:
            parts["ema"] = self.average
        self.checkpointer = VideoCheckpointer(
            model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), **parts
        )
        names = training_class_names(cfg) if classes_key(cfg) else None
        model.class_names = names
        self.checkpointer.card = make_card(
            cfg, class_names=names, class_ids=class_ids_of(cfg) if names else None
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self._last_eval_results: Mapping[str, Any] | None = None
        self.register_hooks(self.build_hooks())

    def _check(self, cfg: CfgNode) -> None:
        """Fail now for what would fail after hours."""
        for name in cfg.DATASETS.TEST:
            self.build_test_loader(cfg, name)
        if key := classes_key(cfg):
            check_test_classes(cfg.DATASETS.TEST, get_option(cfg, key), key)
        share = max(cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), 1)
        split(range(share), cfg.SOLVER.ACCUMULATE_STEPS)

    # Detectron2's hooks for subclasses -----------------------------------------------------------

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        with own_weights_later():  # resume_or_load asks for what is missing then
            model = build_model(cfg)
        if not getattr(model, "trainable", True):
            raise InputError(f"{type(model).__name__} has nothing to train: use --eval-only")
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info("Model:\n%s", model, extra=FILE_ONLY)
        logger.info("%.2f M trained parameters", count / 1e6)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        # A system that does not train on clips brings its own loader.
        system = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        build = getattr(system, "build_train_loader", build_train_loader)
        return build(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | Path | None = None
    ) -> DatasetEvaluator:
        MetadataCatalog.get(dataset_name)
        folder = Path(output_folder or results_folder(cfg.OUTPUT_DIR, dataset_name))
        return make_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate on DATASETS.TEST; result files of other weights are never taken over."""
        if isinstance(evaluators, Sequence):
            if len(evaluators) != 1:
                raise ValueError("give one evaluator for all data sets, or none")
            evaluators = evaluators[0]
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TEST.RESUME = False
        return evaluate(cfg, model, evaluator=evaluators)

    def build_hooks(self) -> list[HookBase | None]:
        """Return the hooks in the order in which they run."""
        cfg = self.cfg
        self._checkpoints = CheckpointHook(
            self.checkpointer,
            self.random_states,
            period=cfg.SOLVER.CHECKPOINT_PERIOD,
            keep=cfg.SOLVER.KEEP_CHECKPOINTS,
            average=self.average,
        )
        self._stop = StopHook(self._checkpoints.save)
        chosen: list[HookBase | None] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            AverageHook(self.average) if self.average is not None else None,
            # before the evaluation: an error there must not lose the weights
            self._checkpoints,
            self._stop,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if cfg.DATASETS.TEST else None,
            self._best_hook() if cfg.SOLVER.BEST_METRIC else None,
        ]
        if comm.is_main_process():
            chosen.append(hooks.PeriodicWriter(self.build_writers(), period=_WRITE_PERIOD))
            chosen += [CurvesHook(cfg.OUTPUT_DIR), LoadingHook()]
        return chosen

    def _best_hook(self) -> BestHook:
        def save(name: str) -> None:
            with self._evaluated_weights():
                state = self.checkpointer.model.state_dict()
                path = Path(self.cfg.OUTPUT_DIR) / f"{name}.pth"
                save_weights(state, path, self.checkpointer.card)

        return BestHook(
            self.cfg.OUTPUT_DIR,
            self.cfg.SOLVER.BEST_METRIC,
            patience=self.cfg.SOLVER.EARLY_STOP,
            period=self.cfg.TEST.EVAL_PERIOD if self.cfg.DATASETS.TEST else 0,
            save=save,
            results=lambda: self._last_eval_results,
        )

    def build_writers(self) -> list[Any]:
        writers = default_writers(self.cfg.OUTPUT_DIR, self.max_iter)
        return [*writers, *registered_event_writers(self.cfg)]

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, without a trace in the random numbers of the training."""
        if self._stop.asked is not None:
            return {}  # the hook evaluates at the end whatever the reason
        with kept_random_state(), self._evaluated_weights():
            results = self.test(self.cfg, self.checkpointer.model)
        self._last_eval_results = results
        return without_details(results)

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        """The averaged weights are what is evaluated, where there are some."""
        return nullcontext() if self.average is None else self.average.applied()

    # Running -------------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue exactly after OUTPUT_DIR's last checkpoint, or start from MODEL.WEIGHTS.

        Raises:
            InputError: a checkpoint or weights file that is damaged or does not fit.
        """
        if resume and self.checkpointer.has_checkpoint():
            self.checkpointer.resume()
            self.start_iter = self.iter + 1  # the stored iteration is finished
            logger.info("Continuing with iteration %d", self.start_iter)
        else:
            if resume:
                logger.info("No checkpoint in %s: starting anew", self.cfg.OUTPUT_DIR)
            load_for_training(self.cfg, self.checkpointer.model)
            if self.average is not None:
                self.average.reset()
        if hasattr(self.data_loader, "seek"):
            self.data_loader.seek(self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH)
        elif self.start_iter:
            logger.warning("the loader cannot continue where it was: other samples follow")
        if comm.is_main_process():
            drop_metrics_from(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter)
            remove_parts(self.cfg.OUTPUT_DIR)

    def train(self) -> Mapping[str, Any] | None:
        """Train to MAX_ITER and return the last scores, None without test set.

        Leaves ``scores.md``, ``scores.json`` and ``overlay.mp4`` beside weights and curves. SIGINT
        and SIGTERM end it after the running iteration with a checkpoint and a KeyboardInterrupt.

        Raises:
            Diverged: a loss is no finite number.
        """
        on_cpu = self._trainer.device.type == "cpu"
        with deterministic_algorithms(on_cpu and self.cfg.SOLVER.DETERMINISTIC_ON_CPU):
            self._train_or_save()
        if comm.is_main_process() and self._last_eval_results:
            write_scores(self.cfg, self._last_eval_results)
            with self._evaluated_weights():
                write_overlay(self.cfg, self.checkpointer.model)
        return self._last_eval_results

    def _train_or_save(self) -> None:
        """Train; an evaluation that is interrupted does not lose the iterations before it."""
        try:
            super().train()
        except EarlyStop:
            self._checkpoints.save()
        except KeyboardInterrupt as error:
            ended = self.iter >= self.start_iter and not self._stop.in_step
            if not ended or self._checkpoints.saved >= self.iter or comm.get_world_size() > 1:
                raise
            name = self._checkpoints.save()
            raise type(error)(f"{error}; {name} is written: --resume continues") from None


def without_details(results: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the scores of single classes and objects, whose names hold a dash."""
    kept: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            kept[name] = without_details(value)
        elif "-" not in name:
            kept[name] = value
    return kept
