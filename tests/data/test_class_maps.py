"""The class maps and class lists that are shipped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vis_projects.data import (
    apply_class_map,
    class_agnostic,
    class_map_names,
    get_metadata,
    load_categories,
    load_class_map,
    load_videos,
    read_objects,
)
from vis_projects.structures import InputError


def names(key: str) -> dict[int, str]:
    return {c["id"]: c["name"].lower() for c in load_categories(key)}


def test_class_lists():
    assert len(names("ytvis_2019")) == len(names("ytvis_2021")) == 40
    assert len(names("ovis")) == 25
    assert names("ytvis_2019")[1] == "person" and names("ytvis_2021")[26] == "person"
    with pytest.raises(InputError, match="ytvis_2019"):
        load_categories("ytvis_2020")


def test_every_map_leads_to_classes_of_its_target():
    for key in class_map_names():
        _, source, target = key.split("/")
        known = {1: "object"} if target == "uvos" else names(target.replace("_corrected", ""))
        mapping = load_class_map(key)
        assert set(mapping.values()) <= set(known)
        assert source in ("coco", "voc", "openimages", "imagenet1k")


@pytest.mark.parametrize(
    "key, entries",
    [
        ("seq_mask_rcnn/coco/ytvis_2019", 20),
        ("seq_mask_rcnn/coco/ytvis_2021", 23),
        ("srnet/coco/ytvis_2019", 20),
        ("srnet/voc/ytvis_2019", 10),
        ("msn/coco/ytvis_2021", 21),
        ("msn/openimages/ytvis_2021", 41),
        ("msn/imagenet1k/ytvis_2021", 136),
        ("srnet/voc/uvos", 14),
    ],
)
def test_sizes_of_the_published_maps(key, entries):
    assert len(load_class_map(key)) == entries


def test_the_computer_mouse_is_no_animal():
    for key in class_map_names():
        if "/coco/" in key:
            assert 74 not in load_class_map(key)


def test_ids_mean_what_their_names_say():
    equal = {1: "person", 17: "cat", 18: "dog", 25: "giraffe", 42: "surfboard"}
    for key in ("seq_mask_rcnn/coco/ytvis_2021", "msn/coco/ytvis_2021", "dvis/coco/ytvis_2021"):
        mapping = load_class_map(key)
        assert {i: names("ytvis_2021")[mapping[i]] for i in equal} == equal


def coco_metadata() -> SimpleNamespace:
    return SimpleNamespace(
        thing_classes=["person", "bicycle", "mouse"],
        thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 74: 2},
    )


def video() -> dict:
    def row(i: int, c: int) -> dict:
        return {"id": i, "category_id": c}

    return {
        "objects": [row(1, 0), row(2, 1), row(3, 2)],
        "annotations": [[row(1, 0), row(3, 2)], [row(2, 1)]],
    }


def test_mapping_drops_what_is_not_listed():
    out = apply_class_map([video()], "seq_mask_rcnn/coco/ytvis_2021", coco_metadata())[0]
    assert out["objects"] == [{"id": 1, "category_id": 25}, {"id": 2, "category_id": 22}]
    assert [[a["id"] for a in f] for f in out["annotations"]] == [[1], [2]]
    assert video()["objects"][0]["category_id"] == 0  # the original is left alone


def test_maps_are_refused_for_other_class_names():
    metadata = coco_metadata()
    metadata.thing_classes[0] = "airplane"
    with pytest.raises(InputError, match="another data set"):
        apply_class_map([video()], "srnet/coco/uvos", metadata)


def test_open_images_are_mapped_by_name():
    metadata = SimpleNamespace(
        thing_classes=["Airplane", "Mug"], thing_dataset_id_to_contiguous_id={1: 0, 2: 1}
    )
    out = apply_class_map([video()], "msn/openimages/ytvis_2021", metadata)[0]
    assert out["objects"] == [{"id": 1, "category_id": 0}]


def test_label_maps_can_be_mapped_too():
    videos = load_videos("synthetic_train:videos=3:length=2")
    metadata = get_metadata("synthetic_train:videos=3:length=2")
    assert metadata.num_identities == sum(len(v["objects"]) for v in videos)
    for before, after in zip(videos, class_agnostic(videos)):
        assert (read_objects(after, 0).classes == 0).all()
        assert len(read_objects(after, 0)) == len(read_objects(before, 0))
        kept = before["annotations"].remapped({0: 7})
        left = [o["id"] for o in before["objects"] if o["category_id"] == 0]
        seen = kept.ids_in(kept.label_map(0))
        assert [o["id"] for o in kept[0]] == [i for i in left if i in seen]
        assert all(o["category_id"] == 7 for o in kept[0])
