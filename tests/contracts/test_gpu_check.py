"""gpu_check.sh without a GPU: the commands that it would run are understood."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import distributed_step
from vis_projects import cli
from vis_projects.config import load_config

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"train_net.py": "train", "benchmark.py": "bench"}
# Stand-ins: an interpreter that writes its words down, and `timeout`, which notes its limit.
PYTHON = """#!{python}
import json, sys
words = sys.argv[1:]
if words[:1] == ["-c"]:
    print(1)
elif words[:1] != ["-"]:
    with open({log!r}, "a") as file:
        print(json.dumps(words), file=file)
    if "--json" in words:
        open(words[words.index("--json") + 1], "w").write("{{}}")
    print("done")
    sys.exit({fails!r} in words)
"""
TIMEOUT = '#!/bin/sh\necho "$3" >> {log}.limits; shift 3; exec "$@"\n'


def run(folder: Path, *, fails: str = "none") -> tuple[int, list[list[str]], list[int], str]:
    """Run the script as on a machine with one GPU: exit code, command lines, limits, report."""
    log = str(folder / "log")
    for name, text in (("python", PYTHON), ("timeout", TIMEOUT)):
        file = folder / name
        file.write_text(text.format(python=sys.executable, log=log, fails=fails))
        file.chmod(0o755)
    env = {**os.environ, "PYTHON": str(folder / "python"), "GPU_CHECK_DEVICE": "cuda",
           "PATH": f"{folder}:{os.environ['PATH']}"}  # fmt: skip
    command = ["bash", "benchmarks/gpu_check.sh", str(folder / "report.md")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    limits = [int(n) for n in Path(log + ".limits").read_text().split()]
    return done.returncode, lines, limits, (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gpu_check"))


def test_it_takes_less_than_eight_minutes_and_leaves_one_report(ran):
    code, lines, limits, report = ran
    assert code == 0 and len(lines) == len(limits) == report.count("| passed |")
    assert sum(limits) <= 8 * 60
    assert "All of it took" in report


def test_every_command_is_understood(ran):
    found = set()
    for words in ran[1]:
        if words[0] == "-m":
            found.add(words[1])
            continue
        args = cli.parse(SCRIPTS[words[0]], words[1:], prog=words[0])
        opts = ["cpu" if word == "cuda" else word for word in args.opts]
        cfg = load_config(args.config_file, opts)
        found.add(words[0])
        if words[0] == "benchmark.py" and "--compile" not in words:
            found.add((cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.INFERENCE_DTYPE))
        assert args.device == "cuda" if words[0] == "benchmark.py" else args.num_gpus == 1
    formats = ("float32", "bfloat16")
    systems = ("CrossVIS", "SRNet", "CFBI", "FRTM")
    assert found == {
        *("pytest", "train_net.py", "benchmarks.distributed_step", "benchmark.py"),
        *((system, number) for system in systems for number in formats),
    }


def test_a_failure_is_told(tmp_path):
    code, lines, _, report = run(tmp_path, fails="benchmarks.distributed_step")
    assert code == 1 and len(lines) == 12  # the others run nevertheless
    assert re.search(r"\| distributed step \| FAILED \(1\) \|", report)
    assert "<summary>distributed step</summary>" in report


@pytest.mark.slow
def test_gradients_of_a_distributed_step_on_the_cpu(capfd):
    assert distributed_step.main(["--device", "cpu"]) == 0
    assert "1 processes, gloo" in capfd.readouterr().out
