"""Target models of training's reference frames, learned once and kept (FRTM, section 3.3).

One file per model, as the authors lay it out:
``<root>/<backbone>-c<width>/<sequence>/<frame, five digits>.<object>.layer4.pth``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..structures import InputError
from .target_model import TargetModel

_STAMP = "backbone.txt"


def weight_digest(module: nn.Module) -> str:
    """Return a short digest of a module's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class TargetCache:
    """Target models by reference frame, in memory and optionally on disk.

    Args:
        root: folder, or None for memory only.
        name: subfolder, such as ``resnet18-c32``.
        limit: models kept in memory.
    """

    def __init__(self, root: str | Path | None, name: str, *, limit: int = 20000) -> None:
        self.folder = Path(root) / name if root else None
        self.limit = limit
        self._models: OrderedDict[str, TargetModel] = OrderedDict()
        self._checked = False

    def get(
        self,
        sequence: str,
        frame: int,
        object_id: int,
        learn: Callable[[], TargetModel],
        *,
        backbone: nn.Module | None = None,
    ) -> TargetModel:
        """Return a model on the CPU; ``learn`` makes it if it is not there.

        Args:
            backbone: its weights must be those that the folder's models were learned with.

        Raises:
            InputError: another backbone made the folder; a file is damaged.
        """
        key = f"{sequence}/{frame:05d}.{object_id}.layer4.pth"
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        if self.folder is not None and not self._checked:
            self._check(backbone)
        path = None if self.folder is None else self.folder / key
        if path is not None and path.exists():
            model = _read(path)
        else:
            model = learn().to("cpu", torch.float32)
            if path is not None:
                _write(path, model)
        self._models[key] = model
        while len(self._models) > self.limit:
            self._models.popitem(last=False)
        return model

    def _check(self, backbone: nn.Module | None) -> None:
        """Refuse models of another backbone: they would train the network on nonsense."""
        self._checked = True
        if backbone is None:
            return
        digest, stamp = weight_digest(backbone), self.folder / _STAMP
        if not stamp.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            stamp.write_text(digest + "\n")
        elif stamp.read_text().strip() != digest:
            raise InputError(
                f"{self.folder}: these target models were learned with other backbone weights; "
                "choose another MODEL.FRTM.TRAINING.CACHE_DIR or delete the folder"
            )


def _read(path: Path) -> TargetModel:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return TargetModel.from_state(state["project.weight"], state["filter.weight"])
    except Exception as error:
        raise InputError(
            f"{path}: not a target model ({error}); delete it".splitlines()[0]
        ) from None


def _write(path: Path, model: TargetModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        torch.save(model.state(), file)
    os.replace(temporary, path)
