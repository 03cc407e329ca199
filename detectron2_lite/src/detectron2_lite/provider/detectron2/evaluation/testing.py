"""Printing results and comparing them with expected ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

_logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics of each task as lines to copy; names with a dash are left out."""
    assert isinstance(results, Mapping) or not len(results), results
    for task, values in results.items():
        if isinstance(values, Mapping):
            main = {k: v for k, v in values.items() if "-" not in k}
            _logger.info("copypaste: Task: %s", task)
            _logger.info("copypaste: %s", ",".join(main))
            _logger.info("copypaste: %s", ",".join(f"{v:.4f}" for v in main.values()))
        else:
            _logger.info("copypaste: %s=%s", task, values)


def verify_results(cfg, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Tell whether results meet TEST.EXPECTED_RESULTS: rows [task, metric, value, tolerance]."""
    expected = cfg.TEST.EXPECTED_RESULTS
    wrong = []
    for task, metric, value, tolerance in expected:
        actual = results.get(task, {}).get(metric)
        if actual is None or not math.isfinite(actual) or abs(actual - value) > tolerance:
            wrong.append(f"{task}/{metric} is {actual}, expected {value} ± {tolerance}")
    if wrong:
        _logger.error("Result verification failed: %s", "; ".join(wrong))
        _logger.error("Actual results: %s", dict(results))
    elif expected:
        _logger.info("Results verification passed.")
    return not wrong


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested dicts to one with keys such as ``task/metric``."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
