"""Variants of one config over the same videos, with intervals of their differences.

A file of variants is a YAML mapping from names to overrides; the first is the baseline:

    baseline: {}
    no heat map: {MODEL.SRNET.TEST.ZERO_HEATMAP: true}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from tabulate import tabulate
from tqdm import tqdm

from vis_metrics.bootstrap import Interval, Metric, bootstrap

from ..config import find_config, load_config
from ..data import build_test_loader, load_videos
from ..evaluation import VideoEvaluator
from ..modeling.variants import share
from ..structures import InputError, near_names
from ..weights import build_for_test

PROTOCOLS = ("2016", "unsup")


@dataclass(frozen=True)
class Row:
    """One variant on one data set; values are x 100.

    Attributes:
        metric: "AP" or "J&F".
        value: on all videos.
        interval: of the value, (low, high).
        difference: value minus the baseline's; ``difference_interval`` on the same draws.
        scores: everything the evaluator found.
    """

    variant: str
    data_set: str
    metric: str
    value: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    videos: int
    scores: dict[str, float]


def read_variants(file: str | Path, only: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return ``{name: KEY VALUE list}``; the baseline comes first.

    Args:
        file: a path, or relative to the shipped ``configs``.
        only: names to keep; the baseline always stays.

    Raises:
        InputError: no such file, not such a mapping, a name that is not in it.
    """
    path = find_config(file)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: variants are a mapping from names to overrides")
    variants = {}
    for name, overrides in content.items():
        overrides = {} if overrides is None else overrides
        if not isinstance(overrides, dict):
            raise InputError(f"{path}: {name}: overrides are a mapping from options to values")
        variants[str(name)] = [str(x) for pair in overrides.items() for x in pair]
    for name in only:
        if name not in variants:
            raise InputError(f"{path}: no variant {name!r}{near_names(name, variants)}")
    baseline = next(iter(variants))
    return {k: v for k, v in variants.items() if not only or k in only or k == baseline}


def compare(
    config_file: str | Path,
    variants: Mapping[str, Sequence[str]],
    opts: Sequence[str] = (),
    *,
    videos: int | None = None,
    samples: int = 1000,
    protocol: str = "",
) -> list[Row]:
    """Run every variant over DATASETS.TEST and compare it with the first one.

    Result files go to ``OUTPUT_DIR/compare/<variant>/<data set>``. Variants of one system share
    what they have in common (``modeling.variants``).

    Args:
        config_file: of all variants.
        variants: names and their KEY VALUE lists; the first is the baseline.
        opts: KEY VALUE list for all of them; a variant's own override it.
        videos: only the first so many of each data set.
        samples: bootstrap draws of videos; the same for every variant.
        protocol: "2016" or "unsup" scores DAVIS-2016 masks under that protocol: in "unsup" they
            are object 1, which is *not* the DAVIS-2019 benchmark.

    Raises:
        InputError: options, data or weights that do not fit; a data set that is not scored by AP
            or J&F here.
    """
    cfgs = {
        name: load_config(config_file, [*map(str, opts), *map(str, own)])
        for name, own in variants.items()
    }
    first = next(iter(cfgs.values()))
    if not first.DATASETS.TEST:
        raise InputError("DATASETS.TEST names no data set to compare on")
    metadata = {name: _metadata(name, protocol, videos) for name in first.DATASETS.TEST}
    loaders = {name: build_test_loader(first, name) for name in first.DATASETS.TEST}
    models = {name: build_for_test(cfg)[0] for name, cfg in cfgs.items()}
    known: dict[Any, Any] = {}
    forget = share([(cfgs[name], model) for name, model in models.items()], known)
    rows: list[Row] = []
    for name, loader in loaders.items():
        known.clear()
        known.update({video["video_id"]: video for video in load_videos(name)})
        evaluators = {
            variant: _evaluator(cfg, metadata[name], variant, name) for variant, cfg in cfgs.items()
        }
        _run(models, evaluators, loader, videos=videos, forget=forget)
        rows += _rows(evaluators, name, samples)
    return rows


def _metadata(name: str, protocol: str, videos: int | None) -> Metadata:
    """Return a data set's metadata, with other ground truth where a protocol is given.

    Raises:
        InputError: it is scored on a server, or the protocol is for other masks.
    """
    load_videos(name)  # complete with it: names of parametrised sets register themselves
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type", None)
    if kind not in ("ytvis", "davis_2016", "davis_semi", "davis_unsup"):
        raise InputError(f"{name}: evaluator {kind} scores neither AP nor J&F over videos")
    if kind == "ytvis" and videos is not None:
        return _first_videos(metadata, videos)
    if not protocol:
        return metadata
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r}: use {' or '.join(PROTOCOLS)}")
    if kind != "davis_2016":
        raise InputError(f"{name}: protocol {protocol} is for DAVIS-2016 masks, it has {kind}")
    if protocol == "2016":
        return metadata
    truth = {video["name"]: video for video in load_videos(name)}

    class Maps(dict):
        """Masks of a video when they are asked for: any object is object 1."""

        def __missing__(self, video: str) -> np.ndarray:
            source = truth[video]
            frames = range(source["length"])
            maps = [source["annotations"].label_map(t) > 0 for t in frames]
            return np.stack(maps).astype(np.uint8)

    known = {**metadata.as_dict(), "evaluator_type": "davis_unsup", "ground_truth_fn": Maps}
    return Metadata(**known)


def _first_videos(metadata: Metadata, count: int) -> Metadata:
    """The ground truth of the first videos alone: the others count as not seen, not as missed."""
    make = metadata.get("ground_truth_fn", None)
    file = metadata.get("json_file", None)
    if make is None and file is None:
        return metadata
    data = make() if make is not None else json.loads(Path(file).read_text())
    kept = {video["video_id"] for video in load_videos(metadata.name)[:count]}
    truth = {
        **data,
        "videos": [v for v in data["videos"] if v["id"] in kept],
        "annotations": [a for a in data["annotations"] or () if a["video_id"] in kept],
    }
    return Metadata(**{**metadata.as_dict(), "ground_truth_fn": lambda: truth})


def _evaluator(cfg: CfgNode, metadata: Metadata, variant: str, name: str) -> VideoEvaluator:
    folder = Path(cfg.OUTPUT_DIR) / "compare" / _slug(variant) / _slug(name)
    evaluator = VideoEvaluator(
        metadata,
        folder,
        foreground_thresh=cfg.TEST.FOREGROUND_THRESH,
        max_ids=cfg.TEST.MAX_IDS,
        num_workers=cfg.TEST.METRIC_WORKERS,
    )
    evaluator.reset()
    return evaluator


def _slug(name: str) -> str:
    """A name as a folder's: letters, digits and dashes."""
    return re.sub(r"[^0-9A-Za-z._]+", "-", name).strip("-.") or "variant"


def _run(
    models: Mapping[str, Any],
    evaluators: Mapping[str, VideoEvaluator],
    loader: Any,
    *,
    videos: int | None,
    forget: Callable[[], None],
) -> None:
    total = len(loader) if videos is None else min(videos, len(loader))
    for number, items in enumerate(tqdm(loader, desc="videos", unit="video", total=total)):
        if number == total:
            break
        for variant, model in models.items():
            evaluators[variant].process(items, model(items))
        forget()


def _rows(evaluators: Mapping[str, VideoEvaluator], name: str, samples: int) -> list[Row]:
    rows, baseline = [], None
    for variant, evaluator in evaluators.items():
        scores = evaluator.evaluate()
        found = evaluator.metric()
        if found is None:
            raise InputError(f"{name} has no public ground truth: nothing to compare")
        label, metric, count = found
        baseline = metric if baseline is None else baseline
        rows.append(_row(variant, name, label, metric, baseline, count, samples, scores or {}))
    return rows


def _row(
    variant: str,
    name: str,
    label: str,
    metric: Metric,
    baseline: Metric,
    count: int,
    samples: int,
    scores: Mapping[str, Mapping[str, float]],
) -> Row:
    whole = np.ones(count, int)
    own: Interval = bootstrap(metric, count, samples=samples)
    apart = bootstrap(lambda w: metric(w) - baseline(w), count, samples=samples)
    flat = {key: value for part in scores.values() for key, value in part.items()}
    return Row(
        variant=variant,
        data_set=name,
        metric=label,
        value=metric(whole),
        interval=(own.low, own.high),
        difference=metric(whole) - baseline(whole),
        difference_interval=(apart.low, apart.high),
        videos=count,
        scores=flat,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; a data set's name stands in it if there are several."""
    several = len({row.data_set for row in rows}) > 1
    more = [
        k for k in ("AP50", "AR1", "AR10", "AR100", "J", "F") if any(k in r.scores for r in rows)
    ]
    lines = []
    for row in rows:
        lines.append(
            [
                row.variant,
                *([row.data_set] if several else []),
                row.metric,
                f"{row.value:.1f}",
                "{:.1f} .. {:.1f}".format(*row.interval),
                f"{row.difference:+.1f}",
                "{:+.1f} .. {:+.1f}".format(*row.difference_interval),
                *(f"{row.scores[k]:.1f}" if k in row.scores else "" for k in more),
            ]
        )
    heads = ["variant", *(["data set"] if several else []), "metric", "value", "95 % interval"]
    heads += ["minus baseline", "95 % interval", *more]
    return tabulate(lines, heads, tablefmt="pipe", disable_numparse=True)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    return [asdict(row) for row in rows]
