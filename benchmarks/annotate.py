"""The page of ``vis annotate`` on a long video: time of a seek, memory over scripted use.

python -m benchmarks annotate [--frames 1500] [--size 1080x1920] [--seeks 200] [--minutes 5]
                             [--browser]

A 1080p video of 1,500 frames with a key frame every 30 is made, the command is started as a user
starts it, and random frames are asked for as the page asks: picture and masks, both decoded. With
--browser headless Chromium does it, through the page's own modules. Then a script marks, follows,
corrects, renames, deletes and undoes for so many minutes, without pauses; the resident memory of
the server is read after every tenth of the time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import av
import cv2
import numpy as np
from PIL import Image

KEY_FRAME_EVERY = 30
CONFIG = "configs/copy_first/davis2017.yaml"  # what follows costs little, so actions are many
_SEEK = """
const [t, done] = [arguments[0], arguments[arguments.length - 1]];
import('./server.js').then(async (m) => {
  const start = performance.now();
  const [shown, masks] = await Promise.all([m.image(`frames/${t}`), m.image(`frames/${t}/masks`)]);
  const canvas = document.createElement('canvas');
  canvas.width = shown.width; canvas.height = shown.height;
  const g = canvas.getContext('2d');
  g.drawImage(shown, 0, 0); g.drawImage(masks, 0, 0);
  g.getImageData(0, 0, 1, 1);
  done(performance.now() - start);
});
"""


def make_video(file: Path, frames: int, size: tuple[int, int]) -> None:
    """Write an H.264 video with a key frame every 30: a window that moves over a large picture."""
    rows, columns = size
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (rows // 8, columns // 8 + frames // 4, 3), np.uint8)
    picture = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
        stream.codec_context.gop_size = KEY_FRAME_EVERY
        stream.options = {"preset": "ultrafast", "sc_threshold": "0"}
        for t in range(frames):
            window = np.ascontiguousarray(picture[:rows, 2 * t : 2 * t + columns])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="bgr24")))
        container.mux(stream.encode())


class Server:
    """``vis annotate`` in a process of its own, and what the page asks of it."""

    def __init__(self, video: Path) -> None:
        command = [sys.executable, "-m", "vis_projects", "annotate", str(video), "--no-browser"]
        command += ["--config-file", CONFIG, "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = re.search(r"http://\S+", self.process.stdout.readline())[0]
        self.root, self.token = self.address.split("/?token=")

    def call(self, method: str, path: str, body: bytes | dict | None = None) -> bytes:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"X-Token": self.token}
        request = Request(f"{self.root}/api/{path}", data, headers, method=method)
        with urlopen(request) as answer:
            return answer.read()

    def state(self) -> dict[str, Any]:
        return json.loads(self.call("GET", "state"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def seek(server: Server, t: int) -> float:
    """Fetch and decode a frame and its masks; milliseconds."""
    start = time.perf_counter()
    for path in (f"frames/{t}", f"frames/{t}/masks"):
        Image.open(io.BytesIO(server.call("GET", path))).load()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def chromium(server: Server) -> Iterator[Callable[[int], float]]:
    """Seeks by the page's own modules in headless Chromium; milliseconds."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.get(server.address)
    try:
        yield lambda t: driver.execute_async_script(_SEEK, t)
    finally:
        driver.quit()


def measure_seeks(server: Server, length: int, count: int, one: Callable[[int], float]) -> None:
    rng = random.Random(1)
    one(0)
    before = server.cpu_seconds()
    took = np.array([one(rng.randrange(length)) for _ in range(count)])
    spent = (server.cpu_seconds() - before) / count
    print(f"{count} random seeks: {np.mean(took < 300):.1%} under 300 ms")
    for name, share in (("median", 50), ("95 %", 95), ("slowest", 100)):
        print(f"  {name:8} {np.percentile(took, share):7.0f} ms")
    print(f"  the server's CPU {1000 * spent:5.0f} ms a seek; load {os.getloadavg()[0]:.1f}")


class Person:
    """Does what a person does, faster."""

    def __init__(self, server: Server, size: tuple[int, int], length: int) -> None:
        self.server, self.size, self.length = server, size, length
        self.rng, self.done = random.Random(2), Counter()

    def act(self) -> None:
        state = self.server.state()
        ids = [o["id"] for o in state["objects"]]
        t = self.rng.randrange(self.length - 10)
        names = ["look"] * 6 + ["mark", "mark", "follow", "rename", "undo", "redo", "delete"]
        name = self.rng.choice(names if ids else ["add"])
        name = "add" if name == "mark" and len(ids) < 4 and self.rng.random() < 0.3 else name
        getattr(self, name)(t, self.rng.choice(ids) if ids else 0)
        self.done[name] += 1
        while self.server.state()["busy"]:
            time.sleep(0.02)

    def add(self, t: int, _: int) -> None:
        self.server.call("POST", "objects", {"name": ""})

    def look(self, t: int, _: int) -> None:
        seek(self.server, t)

    def mark(self, t: int, i: int) -> None:
        rows, columns = self.size
        mask = np.zeros((rows, columns), np.uint8)
        y, x = self.rng.randrange(rows // 2), self.rng.randrange(columns // 2)
        cv2.circle(mask, (x + columns // 4, y + rows // 4), rows // 8, 255, -1)
        png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        self.server.call("PUT", f"frames/{t}/masks/{i}", png)

    def follow(self, t: int, i: int) -> None:
        known = [o for o in self.server.state()["objects"] if o["drawn"]]
        if known:
            start = self.rng.choice(known)["drawn"][0]
            self.server.call("POST", "follow", {"frame": start, "direction": 1, "count": 5})

    def rename(self, t: int, i: int) -> None:
        self.server.call("POST", f"objects/{i}", {"action": "rename", "name": f"object at {t}"})

    def undo(self, t: int, i: int) -> None:
        self.server.call("POST", "undo")

    def redo(self, t: int, i: int) -> None:
        self.server.call("POST", "redo")

    def delete(self, t: int, i: int) -> None:
        self.server.call("POST", f"objects/{i}", {"action": "delete", "from": t})


def measure_memory(server: Server, size: tuple[int, int], length: int, minutes: float) -> None:
    person = Person(server, size, length)
    start, read = time.monotonic(), []
    while (passed := time.monotonic() - start) < 60 * minutes:
        person.act()
        if passed >= 6 * minutes * len(read):
            read.append((passed / 60, sum(person.done.values()), server.memory_mb()))
    read.append((minutes, sum(person.done.values()), server.memory_mb()))
    done = ", ".join(f"{n} {name}" for name, n in person.done.most_common())
    print(f"{sum(person.done.values())} actions in {minutes:g} minutes: {done}")
    for passed, actions, mb in read:
        print(f"  {passed:5.1f} min {actions:6} actions {mb:7.0f} MB")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--size", default="1080x1920", help="rows x columns")
    parser.add_argument("--seeks", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--browser", action="store_true", help="seek in headless Chromium")
    args = parser.parse_args(argv)
    rows, columns = (int(n) for n in args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "long.mp4"
        make_video(video, args.frames, (rows, columns))
        server = Server(video)
        try:
            if args.browser:
                with chromium(server) as one:
                    measure_seeks(server, args.frames, args.seeks, one)
            else:
                measure_seeks(server, args.frames, args.seeks, lambda t: seek(server, t))
            measure_memory(server, (rows, columns), args.frames, args.minutes)
        finally:
            server.close()
