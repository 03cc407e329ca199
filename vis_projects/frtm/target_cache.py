"""Target models of training's reference frames, learned once and kept (FRTM, section 3.3).

One file per model, as the authors lay it out:
``<root>/<backbone>-c<width>/<sequence>/<frame, five digits>.<object>.layer4.pth``. Processes that
train together, and later runs, share the folder. Sequences of one name in two data sets are kept
apart: the second set's lie in ``<data set>/<sequence>``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..structures import InputError
from .target_learner import TargetOptions
from .target_model import TargetModel

_BACKBONE, _SETTINGS, _DATASET = "backbone.txt", "settings.txt", "dataset.txt"
_MEMORY_ONLY = (
    "capacity",
    "eta",
    "interval",
    "lasting",
)  # these do not change a model of a first frame


def weight_digest(module: nn.Module) -> str:
    """Return a short digest of a module's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def cache_settings(options: TargetOptions, size: tuple[int, int] | None, resize_filter: str) -> str:
    """Return in one line all that a stored model depends on beside the backbone and its frame."""
    values = {k: v for k, v in vars(options).items() if k not in _MEMORY_ONLY}
    if values["layers"] == ("layer4",):  # folders from before there was a choice stay good
        del values["layers"]
    values |= {"size": size, "resize_filter": resize_filter if size else None}
    return json.dumps(values, sort_keys=True, default=str)


class TargetCache:
    """Target models by reference frame, in memory and optionally on disk.

    Args:
        root: folder, or None for memory only.
        name: subfolder, such as ``resnet18-c32``.
        limit: models kept in memory.
        settings: see ``cache_settings``; a folder made with others is refused.
    """

    def __init__(
        self, root: str | Path | None, name: str, *, limit: int = 20000, settings: str = ""
    ) -> None:
        self.folder = Path(root) / name if root else None
        self.limit = limit
        self.settings = settings
        self._models: OrderedDict[tuple[str, str, str], TargetModel] = OrderedDict()
        self._folders: dict[tuple[str, str], Path] = {}
        self._checked = False

    def get(
        self,
        sequence: str,
        frame: int,
        object_id: int,
        learn: Callable[[], TargetModel],
        *,
        dataset: str = "",
        backbone: nn.Module | None = None,
    ) -> TargetModel:
        """Return a model on the CPU; ``learn`` makes it if it is not there.

        Args:
            dataset: name of the data set; a split of a set (``_local_``) shares the set's models.
            backbone: its weights must be those that the folder's models were learned with.

        Raises:
            InputError: another backbone or other settings made the folder; a file is damaged; the
                folder cannot be written.
        """
        dataset = dataset.replace("_local_", "_")
        file = f"{frame:05d}.{object_id}.layer4.pth"
        key = (dataset, sequence, file)
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        if self.folder is None:
            model = learn().to("cpu", torch.float32)
        else:
            model = self._stored(dataset, sequence, file, learn, backbone)
        self._models[key] = model
        while len(self._models) > self.limit:
            self._models.popitem(last=False)
        return model

    def _stored(
        self,
        dataset: str,
        sequence: str,
        file: str,
        learn: Callable[[], TargetModel],
        backbone: nn.Module | None,
    ) -> TargetModel:
        """Return a model from the folder, where it is put if it is new."""
        try:
            if not self._checked:
                self._check(backbone)
            path = self._folder(dataset, sequence) / file
            if path.exists():
                return _read(path)
            model = learn().to("cpu", torch.float32)
            _write(path, model)
        except OSError as error:
            raise InputError(
                f"MODEL.FRTM.TRAINING.CACHE_DIR {self.folder.parent}: {error.strerror or error} "
                f"({error.filename or self.folder}); choose a folder that can be written"
            ) from None
        return model

    def _folder(self, dataset: str, sequence: str) -> Path:
        """Return the folder of a sequence; the plain one is that of the set that came first."""
        key = (dataset, sequence)
        if key not in self._folders:
            apart = self.folder / dataset / sequence
            plain = self.folder / sequence
            if not dataset or (apart != plain and apart.is_dir()):
                self._folders[key] = apart
            else:
                own = _claim(plain / _DATASET, dataset) == dataset
                self._folders[key] = plain if own else apart
        return self._folders[key]

    def _check(self, backbone: nn.Module | None) -> None:
        """Refuse models of another backbone or other settings: they would train the network on
        nonsense."""
        wanted = {_SETTINGS: self.settings}
        if backbone is not None:
            wanted[_BACKBONE] = weight_digest(backbone)
        for stamp, text in wanted.items():
            if text and _claim(self.folder / stamp, text) != text:
                what = "backbone weights" if stamp == _BACKBONE else "settings"
                raise InputError(
                    f"{self.folder}: these target models were learned with other {what} "
                    f"({stamp}); choose another MODEL.FRTM.TRAINING.CACHE_DIR or delete the folder"
                )
        self._checked = True


def _claim(path: Path, text: str) -> str:
    """Write a text to a new file and return it, or what another process has written there."""
    if not path.exists():
        temporary = _temporary(path, (text + "\n").encode())
        try:
            os.link(temporary, path)  # unlike a rename it never replaces another's file
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path.read_text().strip()


def _temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.chmod(name, 0o644)
    return Path(name)


def _read(path: Path) -> TargetModel:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return TargetModel.from_state(state["project.weight"], state["filter.weight"])
    except Exception as error:
        raise InputError(
            f"{path}: not a target model ({error}); delete it".splitlines()[0]
        ) from None


def _write(path: Path, model: TargetModel) -> None:
    buffer = io.BytesIO()
    torch.save(model.state(), buffer)
    os.replace(_temporary(path, buffer.getvalue()), path)
