"""Loading weights into a model: whose file it is, where its tensors go, and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from torch import nn

from ..structures import InputError
from . import resnet
from .card import class_names_of
from .default_outputs import config_that_makes
from .formats import apply, formats_of, whose
from .own_weights import fill_missing_parts, own_tensors
from .reading import WeightsFile, read_weights
from .verdict import (
    Verdict,
    absent_tensors,
    filling,
    frozen_tensors,
    listed,
    mark_given,
    trained_tensors,
)

logger = logging.getLogger(__name__)
State = dict[str, torch.Tensor]


def load_for_test(
    cfg: CfgNode, model: nn.Module, *, file: WeightsFile | None = None, later: bool = False
) -> Verdict:
    """Give a model the weights of ``MODEL.WEIGHTS`` before it is tested or segments.

    Args:
        file: what is in ``MODEL.WEIGHTS``, if it was read before.
        later: with ``MODEL.WEIGHTS`` "" nothing is refused here.

    Raises:
        InputError: a file that cannot be read or does not fit, or no weights for a trained part
            (unless ``MODEL.ALLOW_MISSING_WEIGHTS``).
    """
    allow = cfg.MODEL.ALLOW_MISSING_WEIGHTS
    verdict = load_weights(model, cfg.MODEL.WEIGHTS, strict=False, file=file, whole=not allow)
    if cfg.MODEL.WEIGHTS or not later:
        verdict.require_for_test(allow=allow)
        model.needs_weights = False  # parts may be wrapped and renamed from here on
    _tell(verdict)
    return verdict


def load_for_training(cfg: CfgNode, model: nn.Module) -> Verdict:
    """Give a model the weights of ``MODEL.WEIGHTS`` that a training starts from.

    Fresh heads are normal and listed in one line of the log.

    Raises:
        InputError: a file that cannot be read or of which nothing fits, or a frozen part without
            weights (unless ``MODEL.ALLOW_MISSING_WEIGHTS``).
    """
    verdict = load_weights(model, cfg.MODEL.WEIGHTS, strict=False)
    verdict.require_for_training(allow=cfg.MODEL.ALLOW_MISSING_WEIGHTS)
    _tell(verdict)
    stem = any(name.endswith("bottom_up.stem") for name, _ in model.named_modules())
    if verdict.layout == resnet.NAME and stem and (options := resnet.pixels_to_set(cfg)):
        logger.warning("weights %s: torchvision trained otherwise: set %s", verdict.source, options)
    return verdict


def _tell(verdict: Verdict) -> None:
    """Say in one line what the network got."""
    if verdict.source:
        logger.info("%s", verdict)
    elif verdict.absent and verdict.given:
        logger.info("MODEL.WEIGHTS is empty; %s", verdict)


def load_weights(
    model: nn.Module,
    path: str,
    *,
    strict: bool = True,
    file: WeightsFile | None = None,
    whole: bool = False,
) -> Verdict:
    """Load a weights file: ours, the authors' of any system, Detectron2's, torchvision's.

    A file is recognised by its keys and converted in memory. Parts that bring their own weights
    are asked for them where the file has none. ``path`` "" loads nothing but these.

    Args:
        strict: a file without one fitting tensor is an error.
        file: what is in ``path``, if it was read before.
        whole: the caller refuses a network with a part missing; then no part is asked for weights
            of its own (which may be a download) where others miss theirs anyway.

    Raises:
        InputError: no such file, no weights in it, or a layout that is not supported.
    """
    layout, reshaped, unused, loaded = "", (), (), 0
    if path:
        file = file or read_named(path)
        state, layout = _fitting(file, model)
        loaded, reshaped, unused = _fill(model, state)
    in_vain = bool(path) and not loaded
    if whole and not in_vain:
        in_vain = not own_tensors(model).issuperset(absent_tensors(model))
    if not in_vain and (own := fill_missing_parts(model)):
        logger.info("%s: weights of its own, since no file gives them", ", ".join(own))
    trained = trained_tensors(model)
    absent = absent_tensors(model)
    frozen = frozen_tensors(model)
    verdict = Verdict(
        path,
        type(model).__name__,
        len(trained),
        tuple(absent),
        layout=layout,
        frozen_absent=tuple(n for n in absent if n in frozen),
        reshaped=reshaped,
        unused=unused,
        loaded=loaded,
        owner=_owner(file, model, loaded, layout),
        class_names=None if file is None else class_names_of(file.card),
        class_ids=tuple(file.card.get("class_ids") or ()) or None if file else None,
    )
    if loaded and verdict.class_names:
        model.class_names = list(verdict.class_names)
        model.class_ids = file.card.get("class_ids")
    if strict:
        verdict.require_for_training(allow=True)
        _tell(verdict)
    return verdict


def read_named(path: str) -> WeightsFile:
    """Read what ``MODEL.WEIGHTS`` names; of a missing default start say how it is made."""
    try:
        return read_weights(path)
    except InputError as error:
        hint = config_that_makes(path)
        if hint and "no such file" in str(error):
            raise InputError(f"{error}; {hint}") from None
        raise


# Whose names, and where they go ---------------------------------------------------------------


def _fitting(file: WeightsFile, model: nn.Module) -> tuple[State, str]:
    """Return the file's tensors under the model's names, and the layout that they came in."""
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    if file.names != "exact":
        return _matched_by_ends(file, model), {"caffe2": "Caffe2", "ends": "Detectron2"}[file.names]
    best, name, most = dict(file.state), "", _fits(file.state, own)
    if not most and (part := _part_of(model, file.card.get("system", ""))):
        best = {f"{part}.{k}": v for k, v in best.items()}
        most = _fits(best, own)
    refused: InputError | None = None
    for layout in [] if file.card else formats_of(file.state.keys()):
        if layout.own:
            continue
        try:
            state = apply(f"weights {file.path}", file.state, layout)
        except InputError as error:
            refused = refused or error
            continue
        state = _placed(state, own)
        if (count := _fits(state, own)) > most or (count == most and count and not name):
            best, name, most = state, layout.name, count
    if refused is not None and not name and most < len(own) // 2:
        raise refused
    return best, name


def _part_of(model: nn.Module, system: str) -> str:
    """Return the name of the first part of a model that is such a system; "" if none is."""
    parts = (name for name, part in model.named_modules() if name)
    return next((n for n in parts if type(model.get_submodule(n)).__name__ == system), "")


def _fits(state: Mapping[str, torch.Tensor], own: Mapping[str, tuple[int, ...]]) -> int:
    return sum(own.get(k) == tuple(v.shape) for k, v in state.items())


def _placed(state: State, own: Mapping[str, tuple[int, ...]]) -> State:
    """Put a converted network below the module of the model that it belongs to."""
    if not state:
        return state
    names = list(state)
    prefixes = {""}
    for probe in (names[0], names[len(names) // 2], names[-1]):
        prefixes |= {k[: -len(probe)] for k in own if k.endswith(f".{probe}")}
    best = max(sorted(prefixes, key=len), key=lambda p: sum(p + n in own for n in names))
    return {best + n: v for n, v in state.items()}


def _matched_by_ends(file: WeightsFile, model: nn.Module) -> State:
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    try:
        return align_and_update_state_dicts(
            model.state_dict(), dict(file.state), c2_conversion=file.names == "caffe2"
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"weights {file.path}: {' '.join(str(error).split())}") from None


def _owner(file: WeightsFile | None, model: nn.Module, loaded: int, layout: str) -> str:
    """Say whose file it is, where it is not this model's."""
    if file is None:
        return ""
    system = file.card.get("system", "")
    if system:
        return f"it is a checkpoint of {system}" if system != type(model).__name__ else ""
    if layout or loaded:
        return ""
    return "; ".join(filter(None, (whose(file.state.keys()), _left_unread(file))))


def _left_unread(file: WeightsFile) -> str:
    """Name the objects that were not read, and how to store the tensors without them."""
    left = [name for name in file.unread if not name.startswith("numpy.")]
    if not left:
        return ""
    return f"its objects of {listed(left)} are never loaded: store the named tensors alone"


def _fill(model: nn.Module, state: State) -> tuple[int, tuple, tuple]:
    """Copy what fits; return how many tensors did, what has another shape, and what is unused."""
    own = model.state_dict()
    fitting, reshaped, unused = {}, [], []
    for name, value in state.items():
        if name not in own:
            if not name.endswith(("num_batches_tracked", "pixel_mean", "pixel_std")):
                unused.append(name)
        elif value.shape != own[name].shape:
            reshaped.append((name, tuple(value.shape), tuple(own[name].shape)))
        else:
            fitting[name] = value
    if unused:
        logger.debug("names of the file without a place: %s", listed(unused, 20))
    # All tensors are handed over: norms would fill in statistics that they do not find.
    whole = {**own, **fitting}
    trained = trained_tensors(model)
    for name in trained.keys() - fitting.keys():
        module, _, last = name.rpartition(".")
        if last in ("running_mean", "running_var") and f"{module}.weight" in fitting:
            fill = torch.zeros_like if last == "running_mean" else torch.ones_like
            whole[name] = fill(own[name])
    with filling(model):
        model.load_state_dict(whole, strict=True)
    used = fitting.keys() & trained.keys()
    mark_given(model, used)
    return len(used), tuple(reshaped), tuple(unused)
