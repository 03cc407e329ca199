"""Modules that have moved: the old name imports the new module, with one line of deprecation.

Old names work for one version. A package that took the place of a module (``data.catalog``)
needs no entry if the package exports what the module did.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# old name below vis_projects: new name, in full where it left the package
MOVED = {
    "data.builtin": "data.catalog.benchmarks",
    "data.class_maps": "data.catalog.class_maps",
    "data.clip": "data.clips.clip",
    "data.clip_augmentation": "data.clips.clip_augmentation",
    "data.clip_mapper": "data.clips.clip_mapper",
    "data.dataset_check": "data.catalog.dataset_check",
    "data.davis": "data.formats.davis",
    "data.dead_leaves": "data.synthetic.dead_leaves",
    "data.frame_samplers": "data.clips.frame_samplers",
    "data.instance_duplicator": "data.clips.instance_duplicator",
    "data.json_files": "data.formats.json_files",
    "data.label_maps": "data.formats.label_maps",
    "data.local_split": "data.catalog.local_split",
    "data.own_data": "data.catalog.own_data",
    "data.polygon_fill": "data.synthetic.polygon_fill",
    "data.pseudo_clips": "data.clips.pseudo_clips",
    "data.sampling_order": "data.clips.sampling_order",
    "data.still_conversion": "data.formats.still_conversion",
    "data.stills": "data.formats.stills",
    "data.synthetic_export": "data.synthetic.export",
    "data.synthetic_render": "data.synthetic.render",
    "data.synthetic_scene": "data.synthetic.scene",
    "data.video_folders": "data.formats.video_folders",
    "data.visibility": "data.clips.visibility",
    "data.youtube_vos": "data.formats.youtube_vos",
    "data.ytvis": "data.formats.ytvis",
    "evaluation.average_precision": "vis_metrics.average_precision",
    "evaluation.bootstrap": "vis_metrics.bootstrap",
    "evaluation.davis": "vis_metrics.davis",
    "evaluation.davis_layout": "vis_metrics.files.davis_layout",
    "evaluation.errors": "vis_metrics.errors",
    "evaluation.identity": "vis_metrics.identity",
    "evaluation.json_files": "vis_metrics.files.json_files",
    "evaluation.label_files": "vis_metrics.files.label_files",
    "evaluation.region_boundary": "vis_metrics.region_boundary",
    "evaluation.results": "vis_metrics.files.writing",
    "evaluation.validate": "vis_metrics.validate",
    "evaluation.video_pool": "vis_metrics.video_pool",
    "evaluation.ytvis": "vis_metrics.ytvis",
    "evaluation.ytvis_files": "vis_metrics.files.ytvis_files",
    "evaluation.ytvos": "vis_metrics.ytvos",
    "evaluation.ytvos_meta": "vis_metrics.files.ytvos_meta",
    "feature_match.matching": "modeling.matching",
    "modeling.enlarged_convolution": "modeling.backbones.enlarged_convolution",
    "modeling.small_backbone": "modeling.backbones.small_backbone",
    "modeling.swin": "modeling.backbones.swin",
    "modeling.timm_backbone": "modeling.backbones.timm_backbone",
}
# functions that left a module which has moved; old names in full below vis_projects
MOVED_NAMES = {
    "data.builtin.register_builtin": "data.catalog.benchmarks.register_benchmarks",
    "data.youtube_vos.load_label_folders": "data.formats.label_folders.load_label_folders",
    "data.ytvis.load_known_ytvis": "data.catalog.ytvis_places.load_known_ytvis",
    "data.ytvis.not_found": "data.catalog.ytvis_places.not_found",
    "data.ytvis.ytvis_places": "data.catalog.ytvis_places.ytvis_places",
    "evaluation.davis.MAX_PROPOSALS": "vis_metrics.davis_protocols.MAX_PROPOSALS",
}
_PACKAGE = __name__.rpartition(".")[0] + "."


def new_name(old: str) -> str:
    """Return the full new name of an old name below ``vis_projects``."""
    new = MOVED.get(old) or MOVED_NAMES[old]
    return new if new.startswith("vis_metrics.") else _PACKAGE + new


class _MovedModules(MetaPathFinder, Loader):
    """Finds old names; what it loads is the new module itself, so that both are one object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = fullname.startswith(_PACKAGE) and fullname.removeprefix(_PACKAGE) in MOVED
        return ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        new = new_name(module.__name__.removeprefix(_PACKAGE))
        warnings.warn(
            f"{module.__name__} has moved to {new}; the old name goes with the next version",
            FutureWarning,
            stacklevel=2,
        )
        found = sys.modules[module.__name__] = import_module(new)
        old = module.__name__.removeprefix(_PACKAGE)
        for name in (n for n in MOVED_NAMES if n.startswith(f"{old}.")):
            place, _, attribute = new_name(name).rpartition(".")
            setattr(found, name.rpartition(".")[2], getattr(import_module(place), attribute))


def forward_moved_modules() -> None:
    """Let old names be imported; a second call changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
