"""Reading annotations fast: lists of RLE runs are taken out of the text before it is parsed.

The released annotations are uncompressed: nine tenths of the file are numbers, which a json parser
makes into Python objects one by one. Here numpy reads them; the parser gets the rest. Whatever
looks unusual is left to the ordinary parser.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np

_RUNS = re.compile(rb'"counts"\s*:\s*\[')


def parse_annotations(text: bytes) -> Any:
    """Return the content of a YouTube-VIS ground truth, ``counts`` lists as uint32 arrays.

    Raises ``json.JSONDecodeError`` and ``UnicodeDecodeError`` as ``json.loads`` does.
    """
    runs, rest, place = [], [], 0
    while (found := _RUNS.search(text, place)) is not None:
        end = text.find(b"]", found.end())
        if end < 0:
            return json.loads(text)
        runs.append(text[found.end() : end])
        rest.append(text[place : found.end()])
        place = end
    if not runs:
        return json.loads(text)
    rest.append(text[place:])
    try:
        content = json.loads(b"".join(rest))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where a text is no list of numbers
            arrays = [np.fromstring(part, np.uint32, sep=",") for part in runs]
    except (ValueError, DeprecationWarning):
        return json.loads(text)
    return content if _refill(content, arrays) else json.loads(text)


def _refill(content: Any, arrays: list[np.ndarray]) -> bool:
    """Put the runs, in the order of the text, where they were taken out; False if that fails."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        return False
    left = iter(arrays)
    for entry in annotations:
        masks = entry.get("segmentations") if isinstance(entry, dict) else None
        for mask in masks if isinstance(masks, list) else ():
            if isinstance(mask, dict) and mask.get("counts") == []:
                runs = next(left, None)
                if runs is None:
                    return False
                mask["counts"] = runs
    return next(left, None) is None
