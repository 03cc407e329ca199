"""Annotations with lists of runs: read by numpy, or by the parser, to the same content."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vis_metrics.files.run_lists import parse_annotations


def plain(content):
    """Arrays as lists."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return content.tolist() if isinstance(content, np.ndarray) else content


def annotated(*masks) -> dict:
    return {"videos": [], "annotations": [{"id": 1, "segmentations": list(masks)}]}


RUNS = {"size": [3, 4], "counts": [2, 3, 7]}
CASES = {
    "runs": annotated(RUNS, None, {"counts": [12], "size": [3, 4]}),
    "text and polygons": annotated(RUNS, {"size": [3, 4], "counts": "a]b"}, [[1, 2, 3]]),
    "no runs": annotated({"size": [3, 4], "counts": "abc"}),
    "empty list": annotated({"size": [3, 4], "counts": []}, RUNS),
    "elsewhere": {**annotated(RUNS), "more": {"counts": [1, 2]}},
    "fractions": annotated({"size": [3, 4], "counts": [2.5, 3]}),
    "nested": annotated({"size": [3, 4], "counts": [[1, 2], 3]}),
    "in a text": {**annotated(RUNS), "info": '"counts": [1'},
    "no annotations": {"videos": [{"counts": [1]}]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("indent", [None, 1])
def test_content_is_that_of_json(case, indent):
    text = json.dumps(CASES[case], indent=indent)
    assert plain(parse_annotations(text.encode())) == CASES[case]


def test_runs_become_arrays():
    content = parse_annotations(json.dumps(CASES["runs"]).encode())
    assert isinstance(content["annotations"][0]["segmentations"][0]["counts"], np.ndarray)


@pytest.mark.parametrize("end", [5, 60, 80])
def test_broken_text_is_an_error(end):
    with pytest.raises(json.JSONDecodeError):
        parse_annotations(json.dumps(CASES["runs"]).encode()[:end])
