"""What the project imports from ``detectron2`` is in the official package and in the provider.

``goldens/detectron2/exports.json`` holds the names of every official module. A name that the
provider offered elsewhere would make code that fails on the official package.
"""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import types
from collections.abc import Iterator
from pathlib import Path

import detectron2
import pytest

ROOT = Path(__file__).parents[2]

# Modules that may be named in an import, besides the packages themselves.
MODULES = {
    "config": "config defaults",
    "structures": "boxes image_list instances masks",
    "layers": "batch_norm roi_align wrappers nms mask_ops shape_spec blocks",
    "modeling": "anchor_generator box_regression matcher poolers postprocessing sampling "
    "backbone backbone.backbone backbone.build backbone.fpn backbone.resnet "
    "meta_arch meta_arch.build meta_arch.rcnn "
    "proposal_generator proposal_generator.build proposal_generator.rpn "
    "proposal_generator.proposal_utils "
    "roi_heads roi_heads.roi_heads roi_heads.fast_rcnn roi_heads.mask_head roi_heads.box_head "
    "roi_heads.cascade_rcnn",
    "data": "build catalog common dataset_mapper samplers detection_utils datasets datasets.coco "
    "datasets.builtin datasets.builtin_meta datasets.register_coco transforms",
    "engine": "defaults hooks train_loop launch",
    "evaluation": "evaluator testing coco_evaluation",
    "checkpoint": "detection_checkpoint c2_model_loading",
    "solver": "build lr_scheduler",
    "utils": "comm env events file_io logger memory registry visualizer video_visualizer colormap "
    "collect_env",
    "model_zoo": "",
}

NAMES = {
    "config": "CfgNode configurable get_cfg global_cfg set_global_cfg _C",
    "structures": "BitMasks BoxMode Boxes ImageList Instances PolygonMasks ROIMasks "
    "matched_pairwise_iou pairwise_intersection pairwise_ioa pairwise_iou "
    "pairwise_point_box_distance polygons_to_bitmask",
    "layers": "BatchNorm2d CNNBlockBase Conv2d ConvTranspose2d DepthwiseSeparableConv2d "
    "FrozenBatchNorm2d Linear NaiveSyncBatchNorm ROIAlign ShapeSpec batched_nms cat ciou_loss "
    "cross_entropy diou_loss get_norm interpolate move_device_like nms nonzero_tuple "
    "paste_masks_in_image roi_align shapes_to_tensor",
    "modeling": "ANCHOR_GENERATOR_REGISTRY BACKBONE_REGISTRY META_ARCH_REGISTRY "
    "PROPOSAL_GENERATOR_REGISTRY ROI_BOX_HEAD_REGISTRY ROI_HEADS_REGISTRY "
    "ROI_KEYPOINT_HEAD_REGISTRY ROI_MASK_HEAD_REGISTRY RPN_HEAD_REGISTRY SEM_SEG_HEADS_REGISTRY "
    "Backbone BaseMaskRCNNHead BasicBlock BasicStem BottleneckBlock Box2BoxTransform "
    "CascadeROIHeads DefaultAnchorGenerator FPN FastRCNNConvFCHead FastRCNNOutputLayers "
    "GeneralizedRCNN LastLevelMaxPool LastLevelP6P7 MaskRCNNConvUpsampleHead Matcher "
    "ProposalNetwork ROIHeads ROIPooler RPN ResNet StandardROIHeads "
    "StandardRPNHead add_ground_truth_to_proposals build_anchor_generator build_backbone "
    "build_box_head build_mask_head build_model build_proposal_generator build_resnet_backbone "
    "build_resnet_fpn_backbone build_retinanet_resnet_fpn_backbone build_roi_heads "
    "detector_postprocess fast_rcnn_inference find_top_rpn_proposals "
    "mask_rcnn_inference mask_rcnn_loss select_foreground_proposals sem_seg_postprocess "
    "subsample_labels",
    "data": "AspectRatioGroupedDataset DatasetCatalog DatasetFromList DatasetMapper "
    "InferenceSampler MapDataset Metadata MetadataCatalog RepeatFactorTrainingSampler "
    "SizeMismatchError ToIterableDataset TrainingSampler annotations_to_instances "
    "build_augmentation build_batch_data_loader build_detection_test_loader "
    "build_detection_train_loader check_image_size check_metadata_consistency "
    "convert_image_to_rgb convert_to_coco_json filter_empty_instances "
    "gen_crop_transform_with_instance get_detection_dataset_dicts load_coco_json read_image "
    "register_coco_instances transform_instance_annotations trivial_batch_collator "
    "worker_init_reset_seed "
    # transforms, with those of fvcore
    "AugInput Augmentation AugmentationList BlendTransform ColorTransform CropTransform "
    "ExtentTransform FixedSizeCrop GridSampleTransform HFlipTransform MinIoURandomCrop "
    "NoOpTransform PILColorTransform PadTransform RandomApply RandomBrightness RandomContrast "
    "RandomCrop RandomExtent RandomFlip RandomLighting RandomRotation RandomSaturation Resize "
    "ResizeScale ResizeShortestEdge ResizeTransform RotationTransform ScaleTransform "
    "StandardAugInput Transform TransformGen TransformList VFlipTransform apply_augmentations "
    "apply_transform_gens",
    "engine": "AMPTrainer BestCheckpointer CallbackHook DefaultPredictor DefaultTrainer EvalHook "
    "HookBase IterationTimer LRScheduler PeriodicCheckpointer PeriodicWriter PreciseBN "
    "SimpleTrainer TrainerBase create_ddp_model default_argument_parser default_setup "
    "default_writers launch",
    "evaluation": "COCOEvaluator DatasetEvaluator DatasetEvaluators flatten_results_dict "
    "inference_context inference_on_dataset instances_to_coco_json print_csv_format "
    "verify_results",
    "checkpoint": "DetectionCheckpointer PeriodicCheckpointer Checkpointer "
    "align_and_update_state_dicts convert_c2_detectron_names",
    "solver": "LRMultiplier WarmupParamScheduler "
    "build_lr_scheduler build_optimizer get_default_optimizer_params maybe_add_gradient_clipping",
    "utils": "ColorMode CommonMetricPrinter EventStorage EventWriter GenericMask JSONWriter "
    "PathManager PathHandler Registry TORCH_VERSION TensorboardXWriter VideoVisualizer VisImage "
    "Visualizer all_gather collect_env_info colormap create_local_process_group "
    "create_small_table gather get_event_storage get_local_rank get_local_size get_rank "
    "get_world_size has_event_storage is_main_process locate log_every_n log_every_n_seconds "
    "log_first_n random_color random_colors reduce_dict retry_if_cuda_oom seed_all_rng "
    "setup_logger shared_random_seed synchronize",
    "model_zoo": "get get_checkpoint_url get_config get_config_file",
}

# It asks for names that are absent, and for the provider's inside.
ABSENT = ROOT / "tests" / "detectron2_lite" / "test_packaging.py"


def project_files() -> list[Path]:
    files = list(ROOT.glob("*.py"))
    for folder in ("vis_projects", "tests", "tools", "datasets"):
        files += (ROOT / folder).rglob("*.py")
    return sorted(f for f in files if "goldens" not in f.parts)


def imported(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (module, name, line) of what a file takes from detectron2; name "" is the module.

    Attributes of imported modules (``comm.get_rank``, ``T.RandomFlip``) count as names.
    """
    tree = ast.parse(path.read_text(), filename=str(path))
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "detectron2":
                    yield alias.name, "", node.lineno
                    bound[alias.asname or "detectron2"] = (
                        alias.name if alias.asname else "detectron2"
                    )
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if (node.module or "").split(".")[0] == "detectron2":
                for alias in node.names:
                    yield node.module, alias.name, node.lineno
                    bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    modules = {name: dotted for name, dotted in bound.items() if is_module(dotted)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = dotted_name(node)
            head, _, rest = dotted.partition(".")
            if head in modules and rest:
                module, _, name = f"{modules[head]}.{rest}".rpartition(".")
                if is_module(module) and not is_module(f"{module}.{name}"):
                    yield module, name, node.lineno


def dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted_name(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def is_module(dotted: str) -> bool:
    if dotted in KNOWN_MODULES:
        return True
    try:
        found = importlib.import_module(dotted)
    except ImportError:
        return False
    return isinstance(found, types.ModuleType)


KNOWN_MODULES = {"detectron2"} | {
    ".".join(("detectron2", package, *([module] if module else [])))
    for package, modules in MODULES.items()
    for module in ["", *modules.split()]
}


def outside_official(module: str, name: str) -> bool:
    """Tell whether the official package lacks the name in that module."""
    if module not in EXPORTS:
        return True
    named = not name or f"{module}.{name}" in EXPORTS or name in EXPORTS[module]
    return not named and not name.startswith("__") and (module, name) != CONFIG_DEFAULTS


EXPORTS = {
    module: names or []
    for module, names in json.loads(
        (Path(__file__).parents[1] / "goldens/detectron2/exports.json").read_text()
    ).items()
}
CONFIG_DEFAULTS = ("detectron2.config.defaults", "_C")  # private there, yet a habit of extensions

USES = [(path, *use) for path in project_files() for use in imported(path)]


def where(path: Path, module: str, name: str, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {module}{'.' if name else ''}{name}"


def test_something_is_imported():
    assert len({(m, n) for _, m, n, _ in USES}) > 20


def test_everything_imported_exists():
    missing = []
    for path, module, name, line in USES:
        try:
            found = importlib.import_module(module)
            if name and not hasattr(found, name):
                importlib.import_module(f"{module}.{name}")
        except ImportError:
            missing.append(where(path, module, name, line))
    assert not [m for m in missing if ABSENT.name not in m]


def test_only_official_names_are_imported():
    wrong = [
        where(path, module, name, line)
        for path, module, name, line in USES
        if path != ABSENT and outside_official(module, name)
    ]
    assert not wrong


def offered(module: types.ModuleType) -> set[str]:
    """The public names of a module that are Detectron2's: no foreign modules, no type hints."""
    names = set()
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        home = getattr(value, "__module__", None) or ""
        ours = home.split(".")[0] in ("detectron2", "fvcore", "iopath", "yacs")
        if ours or (not home and name != "TYPE_CHECKING"):
            names.add(name)
    return names


@pytest.mark.lite
@pytest.mark.parametrize(
    "name",
    ["detectron2", *(m.name for m in pkgutil.walk_packages(detectron2.__path__, "detectron2."))],
)
def test_every_name_stands_where_the_official_package_has_it(name):
    private = any(part.startswith("_") for part in name.split("."))
    assert private or name in EXPORTS
    if not private:
        assert not offered(importlib.import_module(name)) - set(EXPORTS[name])


@pytest.mark.parametrize("module", sorted(KNOWN_MODULES))
def test_contract_modules_exist(module):
    importlib.import_module(module)


@pytest.mark.parametrize("package", sorted(NAMES))
def test_contract_names_exist(package):
    """Every name is found in some module of its package."""
    optional = {"ciou_loss", "diou_loss", "DepthwiseSeparableConv2d"}
    modules = [importlib.import_module(m) for m in KNOWN_MODULES if m.split(".")[1:2] == [package]]
    missing = {n for n in NAMES[package].split() if not any(hasattr(m, n) for m in modules)}
    assert missing <= optional
