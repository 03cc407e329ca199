"""Every loader on a small tree in its exact on-disk format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from vis_projects import get_cfg
from vis_projects.data import (
    build_test_loader,
    build_train_loader,
    dataset_root,
    get_metadata,
    load_videos,
    num_identities,
    read_objects,
    register_coco_json,
    register_dataset,
    register_folders,
    register_ytvis_json,
    unregister_dataset,
)
from vis_projects.data.catalog.class_names import class_ids_of, known_class_names
from vis_projects.structures import InputError


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def items_of(name: str = "synthetic_vos_val") -> list[dict]:
    return [batch[0] for batch in build_test_loader(get_cfg(), name)]


def test_the_root_is_looked_up_when_a_set_is_used(root, tmp_path, monkeypatch):
    assert dataset_root() == root
    trees.davis(root)
    assert len(load_videos("davis_2017_val")) == 2
    trees.davis(root / "other", names=("dance",))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "other"))
    assert [v["name"] for v in load_videos("davis_2017_val")] == ["dance"]
    gt_root = get_metadata("davis_2017_val").gt_root
    assert gt_root == str(root / "other" / "DAVIS" / "Annotations" / "480p")


def test_what_files_below_another_root_told_is_forgotten(root, monkeypatch):
    """The classes are the benchmark's again before anything of the new root is read."""
    place = root / "ytvis_2019"
    trees.write_ytvis(place / "train.json", place / "train/JPEGImages", trees.ytvis_json())
    assert len(get_metadata("ytvis_2019_train").thing_classes) == 4
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "other"))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("ytvis_2019_train",)
    assert class_ids_of(cfg) == list(range(1, 41))
    assert len(known_class_names("ytvis_2019_train")) == 40


def test_what_stood_before_the_files_were_read_stands_again(root, monkeypatch):
    """Of a set that Detectron2 registers with its classes, and of one that others described."""
    trees.coco(root / "coco")
    (root / "coco/annotations").mkdir()
    (root / "coco/instances.json").rename(root / "coco/annotations/instances_val2017.json")
    (root / "coco/images").rename(root / "coco/val2017")
    DatasetCatalog.register("others", lambda: [{"name": "clip", "length": 1}])
    MetadataCatalog.get("others").set(thing_classes=("cat",), evaluator_type="theirs")
    before = [dict(MetadataCatalog.get(name).as_dict()) for name in ("coco_2017_val", "others")]
    assert len(before[0]["thing_classes"]) == 80
    assert get_metadata("coco_2017_val").thing_classes == ["person", "dog"]
    assert get_metadata("others").sequences == ["clip"]
    for other in ("first", "second"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(root / other))
        assert len(known_class_names("coco_2017_val")) == 80
        assert known_class_names("others") == ["cat"]
        after = [MetadataCatalog.get(name).as_dict() for name in ("coco_2017_val", "others")]
        assert after == before
    DatasetCatalog.remove("others")
    MetadataCatalog.remove("others")


@pytest.mark.parametrize("year", [2016, 2017, 2019])
def test_davis(root, year):
    trees.davis(root, year=year)
    items = items_of(f"davis_{year}_val")
    metadata = get_metadata(f"davis_{year}_val")
    kind = {2016: "davis_2016", 2017: "davis_semi", 2019: "davis_unsup"}[year]
    assert metadata.evaluator_type == kind and metadata.sequences == ["camel", "goat"]
    assert Path(metadata.gt_root, "camel", "00000.png").is_file()
    source = trees.clips()[0]
    first = items[0]
    assert (first["name"], first["length"]) == ("camel", 5)
    assert first["frame_names"] == [f"{t:05d}" for t in range(5)]
    assert first["task"] == ("uvos" if year == 2019 else "vos")
    frame = first["frames"][2]
    assert frame.image.shape == (3, 96, 160) and frame.name == "00002"
    labels = source["annotations"].label_map(0).copy()
    if year == 2016:
        assert first["object_ids"] == [1]
        assert np.array_equal(first["new_masks"][0], (labels > 0).astype(np.uint8))
    elif year == 2017:
        labels[0, :3] = 0  # void is background
        assert np.array_equal(first["new_masks"][0], labels)
        assert list(first["new_masks"]) == [0]
    else:
        assert "new_masks" not in first


def test_frames_come_in_the_order_of_the_config(root):
    trees.davis(root)
    cfg = get_cfg()
    bgr = next(iter(build_test_loader(cfg, "davis_2017_val")))[0]["frames"][0].image
    cfg.INPUT.FORMAT = "RGB"
    rgb = next(iter(build_test_loader(cfg, "davis_2017_val")))[0]["frames"][0].image
    assert torch.equal(bgr.flip(0), rgb)


def test_the_excerpt_of_davis_2016(davis_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(davis_root.parent))
    videos = load_videos("davis_2016_val")
    assert [v["length"] for v in videos] == [50, 80, 84, 40, 60, 49, 40, 80]
    item = items_of("davis_2016_val")[0]
    assert set(np.unique(item["new_masks"][0])) == {0, 1}


@pytest.mark.parametrize(
    "json_file, images, name",
    [
        ("ytvis_2019/train.json", "ytvis_2019/train/JPEGImages", "ytvis_2019_train"),
        ("ytvis_2021/valid.json", "ytvis_2021/valid/JPEGImages", "ytvis_2021_val"),
        ("ytvis_2021/train/instances.json", "ytvis_2021/train/JPEGImages", "ytvis_2021_train"),
        (
            "ytvis_2019/annotations/instances_val_sub.json",
            "ytvis_2019/val/JPEGImages",
            "ytvis_2019_val",
        ),
        ("youtubevis/annotations/train.json", "youtubevis/train", "ytvis_2019_train"),
        ("ytvis_2022/valid/instances.json", "ytvis_2022/valid/JPEGImages", "ytvis_2022_val"),
        ("ytvis_2022/instances.json", "ytvis_2022/val/JPEGImages", "ytvis_2022_val"),
        ("ovis/annotations/annotations_train.json", "ovis/train", "ovis_train"),
        ("ovis/annotations_valid.json", "ovis/valid", "ovis_val"),
    ],
)
def test_ytvis_in_every_known_layout(root, json_file, images, name):
    truth = trees.write_ytvis(root / json_file, root / images)
    videos = load_videos(name)
    metadata = get_metadata(name)
    assert metadata.evaluator_type == "ytvis" and metadata.json_file == str(root / json_file)
    assert metadata.thing_classes == ["disc", "box", "triangle", "star"]
    assert metadata.contiguous_id_to_dataset_id == {0: 1, 1: 2, 2: 3, 3: 4}
    assert num_identities([name]) == len(truth["annotations"])
    assert [v["video_id"] for v in videos] == [1, 2]
    assert all(Path(f).is_file() for v in videos for f in v["file_names"])
    item = items_of(name)[1]
    assert item["task"] == "vis" and item["frames"][3].image.shape == (3, 96, 160)


def test_ytvis_annotations_are_read_exactly(root):
    truth = trees.ytvis_json()
    truth["annotations"][0]["iscrowd"] = 1
    first = truth["annotations"][1]
    first["segmentations"][0] = [[5.0, 5.0, 20.0, 5.0, 20.0, 15.0], [1.0, 2.0, 3.0]]
    trees.write_ytvis(root / "ytvis_2019/train.json", root / "ytvis_2019/train/JPEGImages", truth)
    videos = load_videos("ytvis_2019_train")
    assert truth["annotations"][0]["id"] not in [o["id"] for o in videos[0]["objects"]]
    for t in range(4):
        objects = read_objects(videos[0], t)
        wanted = {
            a["id"]: a for a in truth["annotations"][1:] if a["video_id"] == 1 and a["bboxes"][t]
        }
        assert sorted(objects.ids.tolist()) == sorted(wanted)
        for i, mask, box, c in zip(objects.ids, objects.masks, objects.boxes, objects.classes):
            row = wanted[int(i)]
            x, y, w, h = row["bboxes"][t]
            assert box.tolist() == [x, y, x + w, y + h]
            assert row["category_id"] == c + 1
            if isinstance(row["segmentations"][t], dict):
                rle = mask_util.frPyObjects(row["segmentations"][t], 96, 160)
                assert np.array_equal(mask, mask_util.decode(rle))
            else:
                assert 50 < mask.sum() < 120
    assert len(read_objects(videos[0], 1)) == 0


@pytest.mark.parametrize("form", ["null", "missing"])
def test_ovis_validation_has_no_ground_truth(root, form):
    truth = trees.ytvis_json()
    truth["annotations"] = None
    if form == "missing":
        del truth["annotations"]
    trees.write_ytvis(root / "ovis/annotations/annotations_valid.json", root / "ovis/valid", truth)
    assert all(v["annotations"] is None for v in load_videos("ovis_val"))
    metadata = get_metadata("ovis_val")
    assert not hasattr(metadata, "json_file") and metadata.video_json.endswith("valid.json")
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("ovis_val",)
    with pytest.raises(InputError, match="no annotated frame"):
        build_train_loader(cfg)


@pytest.mark.parametrize("year", [2018, 2019])
def test_youtube_vos_validation(root, year):
    base = root / f"youtube_vos_{year}"
    meta = trees.youtube_vos(base)
    item = items_of(f"youtube_vos_{year}_val")[0]
    metadata = get_metadata(f"youtube_vos_{year}_val")
    assert metadata.evaluator_type == "ytvos" and not hasattr(metadata, "gt_root")
    assert metadata.meta_file == str(base / "valid" / "meta.json")
    assert item["frame_names"] == ["00000", "00005", "00010", "00015", "00020"]
    assert item["object_ids"] == [int(i) for i in meta["videos"][item["name"]]["objects"]]
    assert list(item["new_masks"]) == [0, 2]
    assert 2 not in item["new_masks"][0]
    assert set(np.unique(item["new_masks"][2])) == {0, 2}  # older objects are blanked
    assert item["scored_frames"] == [0, 1, 2, 3, 4]


def test_youtube_vos_all_frames_are_run_and_the_listed_scored(root):
    base = root / "youtube_vos_2018"
    trees.youtube_vos(base)
    for name, video in zip(("003234408d", "0043f083b5"), trees.clips(length=21)):
        trees.write_frames(base / "valid_all_frames" / "JPEGImages" / name, video)
    item = items_of("youtube_vos_2018_val_all_frames")[0]
    assert item["length"] == 21 and item["scored_frames"] == [0, 5, 10, 15, 20]
    assert list(item["new_masks"]) == [0, 10]


def test_youtube_vos_training(root):
    trees.youtube_vos(root / "youtube_vos_2018", "train")
    videos = load_videos("youtube_vos_2018_train")
    metadata = get_metadata("youtube_vos_2018_train")
    assert metadata.thing_classes == ["fish"] and Path(metadata.gt_root).is_dir()
    assert all(v["annotations"].has_labels(t) for v in videos for t in range(5))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("youtube_vos_2018_train",)
    cfg.INPUT.SAMPLER.NAME, cfg.INPUT.SAMPLER.FRAMES = "reference_and_validation", 3
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
    item = next(iter(build_train_loader(cfg)))[0]
    assert item["instances"][0].gt_ids.tolist() == [item["object_id"]]
    (root / "youtube_vos_2018/train/local_val.txt").write_text("0043f083b5\n")
    assert [v["name"] for v in load_videos("youtube_vos_2018_local_val")] == ["0043f083b5"]


def test_mose(root):
    for split, labelled in (("train", 5), ("valid", 1)):
        for name, video in zip(("a1", "b2"), trees.clips()):
            stems = trees.write_frames(root / "MOSE" / split / "JPEGImages" / name, video)
            for t, stem in enumerate(stems[:labelled]):
                file = root / "MOSE" / split / "Annotations" / name / f"{stem}.png"
                trees.write_png(file, video["annotations"].label_map(t))
    item = items_of("mose_val")[0]
    assert list(item["new_masks"]) == [0] and item["object_ids"] == sorted(item["object_ids"])
    assert not hasattr(get_metadata("mose_val"), "gt_root")
    assert Path(get_metadata("mose_train").gt_root, "a1", "00004.png").is_file()


@pytest.mark.parametrize(
    "name, json_file, images",
    [
        ("coco_2017_val", "coco/annotations/instances_val2017.json", "coco/val2017"),
        ("voc_stills_train", "voc/annotations/instances_train.json", "voc/JPEGImages"),
        ("voc_stills_trainval", "voc/annotations/instances_trainval.json", "voc/JPEGImages"),
    ],
)
def test_stills(root, name, json_file, images):
    data = trees.coco(root)
    (root / json_file).parent.mkdir(parents=True)
    (root / images).parent.mkdir(parents=True, exist_ok=True)
    (root / "instances.json").rename(root / json_file)
    (root / "images").rename(root / images)
    videos = load_videos(name)
    metadata = get_metadata(name)
    assert metadata.thing_classes == ["person", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 18: 1}
    assert [v["video_id"] for v in videos] == [3, 7]
    objects = read_objects(videos[1], 0)
    assert objects.classes.tolist() == [1] and objects.boxes.tolist() == [[10, 10, 30, 30]]
    assert objects.masks.sum() == 400
    assert len(data["annotations"]) == 3
    item = items_of(name)[0]
    assert item["image"].shape == (3, 48, 64) and item["image_id"] == 3
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.SAMPLER.NAME = "still"
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 1, 0
    flat = next(iter(build_train_loader(cfg)))[0]
    assert flat["image"].dim() == 3 and len(flat["instances"]) == 1


def test_own_data_by_name(root):
    trees.write_ytvis(root / "mine.json", root / "images")
    trees.coco(root / "stills")
    for name, video in zip(("x", "y"), trees.clips()):
        stems = trees.write_frames(root / "clips" / "JPEGImages" / name, video)
        file = root / "clips" / "Annotations" / name / f"{stems[1]}.png"
        trees.write_png(file, video["annotations"].label_map(1))
    assert len(load_videos(f"own_vis:{root}/mine.json:{root}/images")) == 2
    assert len(load_videos(f"own_stills:{root}/stills/instances.json:{root}/stills/images")) == 2
    item = items_of(f"own_vos:{root}/clips")[0]
    assert list(item["new_masks"]) == [1]
    assert "new_masks" not in items_of(f"own_uvos:{root}/clips")[0]
    with pytest.raises(InputError, match="own_vis:JSON:IMAGES"):
        load_videos("own_vis:only.json")


def test_own_data_by_call(root):
    trees.write_ytvis(root / "mine.json", root / "images")
    for name, video in zip(("x", "y"), trees.clips()):
        trees.write_frames(root / "clips" / "JPEGImages" / name, video)
    try:
        assert register_ytvis_json("mine", root / "mine.json", root / "images")
        assert not register_ytvis_json("mine", "elsewhere.json", "elsewhere")  # taken: left alone
        assert len(load_videos("mine")) == 2
        assert register_folders("my_clips", root / "clips")
        assert items_of("my_clips")[0]["new_masks"] == {}
        assert register_coco_json("my_stills", "a.json", "b")
        with pytest.raises(InputError, match="a.json"):
            load_videos("my_stills")
        assert not register_dataset("davis_2016_val", list, evaluator_type="ytvis", task="vis")
    finally:
        for name in ("mine", "my_clips", "my_stills"):
            unregister_dataset(name)


def test_a_set_of_another_project_can_be_used(root):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    still = {"file_name": str(root / "a.jpg"), "height": 8, "width": 9, "image_id": 5}
    records = [{**still, "annotations": []}]
    DatasetCatalog.register("foreign_stills", lambda: records)
    MetadataCatalog.get("foreign_stills").thing_classes = ["a", "b"]
    try:
        videos = load_videos("foreign_stills")
        assert videos[0]["video_id"] == 5 and videos[0]["length"] == 1
        assert get_metadata("foreign_stills").contiguous_id_to_dataset_id == {0: 1, 1: 2}
    finally:
        unregister_dataset("foreign_stills")
