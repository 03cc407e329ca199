"""Set-up, trainer, predictor and the evaluation loop, on a model of a few numbers."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    launch,
)
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import nn


class MeanColour(nn.Module):
    """Learns one number; predicts it together with the size of its input."""

    def __init__(self, cfg=None):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))
        self.frozen_eval = nn.Dropout()

    def forward(self, items):
        if self.training:
            target = torch.stack([item["target"] for item in items])
            return {"loss_a": ((self.value - target) ** 2).mean(), "loss_b": self.value.sum() * 0}
        return [{"value": self.value.item(), **item} for item in items]


if "CoreTestMeanColour" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY._do_register("CoreTestMeanColour", MeanColour)


class Mean(DatasetEvaluator):
    def reset(self):
        self.values = []

    def process(self, inputs, outputs):
        self.values += [o["value"] for o in outputs]

    def evaluate(self):
        values = [v for part in comm.gather(self.values) for v in part]
        return {"task": {"mean": float(np.mean(values)), "n": len(values)}} if values else None


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return [[{"target": torch.tensor([1.0 + comm.get_rank()])}] * 2] * 1000

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [[{"name": dataset_name}]] * 3

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Mean()


def small_cfg(folder, iterations=6):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "CoreTestMeanColour"
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TEST = ("core_engine_set",)
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SEED = 1
    return cfg


def test_argument_parser():
    parse = default_argument_parser().parse_args
    args = parse([])
    assert (args.config_file, args.resume, args.eval_only) == ("", False, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.opts) == (1, 1, 0, [])
    assert args.dist_url.startswith("tcp://127.0.0.1:") and int(args.dist_url.split(":")[2]) > 2**15
    args = parse(
        ["--config-file", "a.yaml", "--resume", "--num-gpus", "2", "SEED", "3", "--eval-only"]
    )
    assert args.opts == ["SEED", "3", "--eval-only"] and not args.eval_only and args.resume


def test_default_setup(tmp_path):
    cfg = small_cfg(tmp_path / "out")
    cfg.SEED = 7
    config = tmp_path / "given.yaml"
    config.write_text("SEED: 7\n")
    args = default_argument_parser().parse_args(["--config-file", str(config)])
    default_setup(cfg, args)
    first = (np.random.rand(), torch.rand(1).item())
    default_setup(cfg, args)
    assert first == (np.random.rand(), torch.rand(1).item())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "out" / "config.yaml"), allow_unsafe=False)
    assert again.SEED == 7
    log = (tmp_path / "out" / "log.txt").read_text()
    for text in ("Environment info", "Command line arguments", "given.yaml", "0.6"):
        assert text in log


def test_training_writes_the_official_layout_and_resumes(tmp_path):
    trainer = Trainer(small_cfg(tmp_path))
    trainer.resume_or_load(resume=False)
    assert trainer.train() is None
    assert trainer.iter == 6 and sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000001.pth",
        "model_0000003.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]
    content = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert set(content) == {"model", "trainer", "iteration"} and content["iteration"] == 3
    state = content["trainer"]
    assert set(state) == {"iteration", "hooks", "_trainer"} and state["iteration"] == 3
    assert set(state["hooks"]["LRScheduler"]) >= {"base_lrs", "last_epoch"}
    assert set(state["_trainer"]) >= {"iteration", "optimizer"}
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"iteration", "total_loss", "loss_a", "lr", "data_time"} <= set(rows[-2])
    assert rows[-2]["iteration"] == 5 and {"task/mean", "task/n"} <= set(rows[-1])

    # killed after iteration 3: the rest gives the same model
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    resumed = Trainer(small_cfg(tmp_path))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 4
    resumed.train()
    assert torch.equal(resumed.model.value, trainer.model.value) and trainer.model.value > 0.5
    fresh = Trainer(small_cfg(tmp_path))
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0


def test_results_and_hooks(tmp_path):
    cfg = small_cfg(tmp_path, 2)
    cfg.TEST.EVAL_PERIOD = 1
    cfg.TEST.EXPECTED_RESULTS = [["task", "n", 3, 0]]
    seen = []

    class Hook(HookBase):
        def after_step(self):
            seen.append((self.trainer.iter, self.trainer.storage.iter))

    trainer = Trainer(cfg)
    trainer.register_hooks([None, Hook()])
    assert trainer.train()["task"]["n"] == 3 and seen == [(0, 0), (1, 1)]
    cfg.TEST.EXPECTED_RESULTS = [["task", "n", 4, 0.5]]
    with pytest.raises(SystemExit):
        Trainer(cfg).train()


@pytest.mark.lite
def test_test_over_several_sets(tmp_path):
    cfg = small_cfg(tmp_path)
    model = MeanColour()
    assert Trainer.test(cfg, model)["task"]["n"] == 3
    cfg.DATASETS.TEST = ("a", "b")
    assert set(Trainer.test(cfg, model)) == {"a", "b"}
    assert Trainer.test(cfg, model, [Mean(), Mean()])["b"]["task"]["mean"] == 0
    with pytest.raises(AssertionError, match="1 evaluators for 2"):
        Trainer.test(cfg, model, Mean())
    with pytest.raises(NotImplementedError, match="build_evaluator"):
        DefaultTrainer.build_evaluator(cfg, "a")


def test_auto_scale_workers():
    cfg = get_cfg()
    assert DefaultTrainer.auto_scale_workers(cfg, 3) is cfg
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    cfg.SOLVER.BASE_LR = 0.02
    cfg.SOLVER.STEPS = (30000, 35000)
    cfg.TEST.EVAL_PERIOD = 100
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    new = DefaultTrainer.auto_scale_workers(cfg, 2)
    s = new.SOLVER
    assert (s.IMS_PER_BATCH, s.BASE_LR, s.MAX_ITER, s.WARMUP_ITERS) == (4, 0.005, 160000, 4000)
    assert s.STEPS == (120000, 140000) and s.CHECKPOINT_PERIOD == 20000
    assert new.TEST.EVAL_PERIOD == 400 and s.REFERENCE_WORLD_SIZE == 2 and new.is_frozen()
    assert cfg.SOLVER.IMS_PER_BATCH == 16


def test_predictor(tmp_path):
    cfg = small_cfg(tmp_path)
    torch.save({"model": {"value": torch.tensor([2.5])}}, tmp_path / "w.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 40, 50
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200
    predictor = DefaultPredictor(cfg)
    out = predictor(image)
    assert out["value"] == 2.5 and (out["height"], out["width"]) == (20, 30)
    assert out["image"].shape == (3, 33, 50) and out["image"].dtype == torch.float32
    assert out["image"][0].mean() == 200 and predictor.metadata.name == "core_engine_set"
    with pytest.raises(ValueError, match="original_image has 2 dimensions"):
        predictor(image[..., 0])
    cfg.INPUT.FORMAT = "RGB"
    assert DefaultPredictor(cfg)(image)["image"][2].mean() == 200
    MetadataCatalog.remove("core_engine_set")


def test_inference_on_dataset():
    model = MeanColour().train()
    calls = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {n: lambda n=n: calls.append((n, model.training)) for n in names}
    results = inference_on_dataset(model, [[{}]] * 2, [Mean()], callbacks)
    assert results == {"task": {"mean": 0.0, "n": 2}} and model.training
    assert [c[0] for c in calls] == [names[0], *names[1:3] * 2, names[3]]
    assert not any(c[1] for c in calls)
    assert inference_on_dataset(model.eval(), [[{}]], None) == {} and not model.training
    assert inference_on_dataset(lambda x: [{"value": 1.0}], [[{}]], Mean())["task"]["mean"] == 1

    class Nothing(DatasetEvaluator):
        pass

    assert inference_on_dataset(model, [], Nothing()) == {}
    with inference_context(model.train()):
        assert not model.frozen_eval.training
    assert model.frozen_eval.training  # restoring is recursive


@pytest.mark.lite
def test_evaluators_and_results(monkeypatch):
    with pytest.raises(AssertionError, match="task"):
        inference_on_dataset(MeanColour(), [[{}]], [Mean(), Mean()])
    assert DatasetEvaluators([]).evaluate() == {}
    results = {"bbox": {"AP": 12.3456, "AP-cat": 1.0}, "speed": 3}
    lines = []
    logger = logging.getLogger("detectron2.evaluation.testing")
    monkeypatch.setattr(logger, "info", lambda text, *values: lines.append(text % values))
    print_csv_format(results)
    assert lines == [
        "copypaste: Task: bbox",
        "copypaste: AP",
        "copypaste: 12.3456",
        "copypaste: speed=3",
    ]
    assert flatten_results_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
    cfg = get_cfg()
    assert verify_results(cfg, results)
    for row, good in (
        (["bbox", "AP", 12, 0.4], True),
        (["bbox", "AP", 12, 0.3], False),
        (["bbox", "AR", 12, 9], False),
        (["segm", "AP", 12, 9], False),
    ):
        cfg.TEST.EXPECTED_RESULTS = [row]
        assert verify_results(cfg, results) is good
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 1.0, 100.0]]
    assert not verify_results(cfg, {"bbox": {"AP": float("nan")}})


def test_one_process_needs_no_wrapper(tmp_path):
    model = MeanColour()
    assert create_ddp_model(model) is model
    writers = default_writers(str(tmp_path / "new"), 10)
    assert (tmp_path / "new").is_dir() and len(writers) == 3
    for writer in writers:
        writer.close()


def test_coco_is_registered():
    assert "coco_2017_val" in DatasetCatalog and "coco_2017_train" in DatasetCatalog
    # Not a 2017 set: other tests load those from small trees, with the classes found there.
    assert len(MetadataCatalog.get("coco_2014_train").thing_classes) == 80


def _train(folder):
    trainer = Trainer(small_cfg(folder))
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = Trainer.test(trainer.cfg, trainer.model)
    values = comm.all_gather(trainer.model.module.value.item())
    assert values[0] == values[1] and 1.0 < values[0] < 1.5  # towards the mean of 1 and 2
    assert dist.get_world_size() == 2
    if comm.is_main_process():
        assert results["task"]["n"] == 6
        with open(os.path.join(folder, "ok"), "w") as f:
            f.write(str(values[0]))


@pytest.mark.lite
@pytest.mark.slow
def test_two_processes_train(tmp_path):
    launch(_train, 2, dist_url="auto", args=(str(tmp_path),))
    assert (tmp_path / "ok").exists() and (tmp_path / "model_final.pth").exists()
