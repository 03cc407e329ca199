"""Configuration: the defaults, merging rules, refusal of code in YAML, and ``configurable``."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy

import pytest
import yaml
from detectron2.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg


def flat(cfg, prefix=""):
    out = {}
    for key, value in cfg.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def as_lists(value):
    return [as_lists(v) for v in value] if isinstance(value, list | tuple) else value


def test_every_default_is_the_official_one(golden):
    expected = json.loads(golden("detectron2/default_config.json").read_text())
    tuples = set(json.loads(golden("detectron2/default_config_tuple_keys.json").read_text()))
    actual = flat(get_cfg())
    assert len(expected) == 192
    assert {k: as_lists(v) for k, v in actual.items()} == expected
    assert {k for k, v in actual.items() if isinstance(v, tuple)} == tuples
    # 1 == 1.0 == True in the comparison above, not in a merge
    for key, value in expected.items():
        if not isinstance(value, list):
            assert type(actual[key]) is type(value), key


@pytest.mark.parametrize(
    "model",
    [
        "mask_rcnn_R_50_FPN_3x",
        "mask_rcnn_R_101_FPN_3x",
        "mask_rcnn_X_101_32x8d_FPN_3x",
        "cascade_mask_rcnn_R_50_FPN_3x",
    ],
)
def test_official_overrides_merge(golden, model, tmp_path):
    overrides = json.loads(golden(f"detectron2/config_{model}.json").read_text())
    nested: dict = {}
    for key, value in overrides.items():
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(nested))
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "model.yaml"), allow_unsafe=False)
    merged = flat(cfg)
    assert {k: as_lists(merged[k]) for k in overrides} == overrides


def test_copies_are_independent():
    a, b = get_cfg(), get_cfg()
    a.MODEL.RPN.IN_FEATURES.append("x")
    a.SEED = 5
    assert b.MODEL.RPN.IN_FEATURES == ["res4"] and b.SEED == -1
    c = a.clone()
    c.MODEL.RPN.IN_FEATURES.append("y")
    assert a.MODEL.RPN.IN_FEATURES == ["res4", "x"]
    assert pickle.loads(pickle.dumps(a)) == a and deepcopy(a) == a
    assert isinstance(a.MODEL, CfgNode)


@pytest.mark.lite
def test_merging_rules(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("MODEL: {DEVICE: cpu, MASK_ON: true}\nSEED: 1\n")
    (tmp_path / "sub" / "mid.yaml").write_text("_BASE_: ../base.yaml\nSEED: 2\n")
    top = tmp_path / "top.yaml"
    top.write_text("_BASE_: sub/mid.yaml\nSOLVER: {STEPS: [5, 6], WEIGHT_DECAY_BIAS: 0.5}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(top), allow_unsafe=False)
    assert (cfg.MODEL.DEVICE, cfg.MODEL.MASK_ON, cfg.SEED) == ("cpu", True, 2)
    assert cfg.SOLVER.STEPS == (5, 6)  # a list for a tuple key
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.5  # anything replaces None
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.5", "MODEL.WEIGHTS", "a.pth", "SOLVER.STEPS", "(1,)"])
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.WEIGHTS, cfg.SOLVER.STEPS) == (0.5, "a.pth", (1,))

    for text, error in (
        ("MODEL: {NO_SUCH_KEY: 1}", KeyError),
        ("SOLVER: {BASE_LR: 1}", ValueError),  # int for float
        ("SEED: true", ValueError),
        ("MODEL: {MASK_ON: 1}", ValueError),
        ("VERSION: 1", ValueError),
    ):
        top.write_text(text)
        with pytest.raises(error):
            get_cfg().merge_from_file(str(top), allow_unsafe=False)
    with pytest.raises(AssertionError):
        get_cfg().merge_from_list(["MODEL.NO_SUCH_KEY", 1])
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        get_cfg().merge_from_file(str(tmp_path / "none.yaml"))


def test_dump_reads_back(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    (tmp_path / "c.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "c.yaml"), allow_unsafe=False)
    assert as_lists(list(flat(again).items())) == as_lists(list(flat(cfg).items()))


def test_frozen_and_computed():
    cfg = get_cfg()
    cfg.freeze()
    assert cfg.is_frozen()
    with pytest.raises(AttributeError):
        cfg.SEED = 1
    cfg.defrost()
    cfg.COMPUTED_X = 1
    cfg.COMPUTED_X = 1
    with pytest.raises(KeyError):
        cfg.COMPUTED_X = 2


@pytest.mark.lite
@pytest.mark.parametrize(
    "text",
    [
        "MODEL: {WEIGHTS: !!python/object/apply:os.system ['touch FLAG']}",
        "SEED: !!python/object/new:subprocess.Popen [['touch', 'FLAG']]",
        "_BASE_: !!python/object/apply:os.mkdir ['FLAG']",
    ],
)
def test_code_in_yaml_is_refused(text, tmp_path):
    flag = tmp_path / "ran"
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace("FLAG", str(flag)))
    with pytest.raises(yaml.constructor.ConstructorError, match="bad.yaml.*python/object"):
        get_cfg().merge_from_file(str(path), allow_unsafe=False)
    base = tmp_path / "child.yaml"
    base.write_text("_BASE_: bad.yaml\n")
    with pytest.raises(yaml.constructor.ConstructorError, match="python/object"):
        get_cfg().merge_from_file(str(base), allow_unsafe=False)
    assert not flag.exists()


def test_global_cfg():
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 3.0
    try:
        set_global_cfg(cfg)
        assert global_cfg.GLOBAL.HACK == 3.0
    finally:
        set_global_cfg(CfgNode())
    assert not global_cfg


class Layer:
    @configurable
    def __init__(self, width, *, depth=2, name="a"):
        self.values = (width, depth, name)

    @classmethod
    def from_config(cls, cfg, depth_factor=1):
        return {"width": cfg.W, "depth": cfg.D * depth_factor}


class Heir(Layer):
    pass


class OwnConfig(Layer):
    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {**super().from_config(cfg), "name": "own", **kwargs}


class OwnInit(Layer):
    @configurable
    def __init__(self, extra, **kwargs):
        super().__init__(**kwargs)
        self.extra = extra

    @classmethod
    def from_config(cls, cfg):
        return {"extra": 7, **super().from_config(cfg)}


def test_configurable_class():
    cfg = CfgNode({"W": 3, "D": 4})
    assert Layer(5, depth=6).values == (5, 6, "a")
    assert Layer(width=5).values == (5, 2, "a")
    assert Layer(cfg).values == Layer(cfg=cfg).values == (3, 4, "a")
    assert Layer(cfg, 10).values == Layer(cfg, depth_factor=10).values == (3, 40, "a")
    assert Layer(cfg, name="b", depth=1).values == (3, 1, "b")  # overrides
    assert Heir(cfg).values == (3, 4, "a")
    assert OwnConfig(cfg).values == (3, 4, "own")
    assert OwnConfig(cfg, name="x").values == (3, 4, "x")
    own = OwnInit(cfg, name="z")
    assert own.values == (3, 4, "z") and own.extra == 7


def test_configurable_function():
    def arguments(cfg, scale=1):
        return {"a": cfg.W * scale}

    @configurable(from_config=arguments)
    def build(a, b=2):
        """Doc."""
        return a, b

    cfg = CfgNode({"W": 3})
    assert build(1) == (1, 2) and build(cfg) == (3, 2) and build(cfg, scale=2, b=5) == (6, 5)
    assert build.from_config is arguments and build.__doc__ == "Doc."


@pytest.mark.lite
def test_configurable_misuse():
    class Missing:
        @configurable
        def __init__(self, a):
            pass

    class WrongName:
        @configurable
        def __init__(self, a):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Missing(CfgNode())
    with pytest.raises(TypeError, match="cfg"):
        WrongName(CfgNode())
