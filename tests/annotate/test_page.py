"""The whole story in a real browser: mark, follow, correct, undo, rename, export, close, reopen.

Needs Chromium with its driver and selenium; ``VIS_SCREENSHOTS=DIR`` keeps the pictures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from annotated_clip import CONFIG, FRAMES, SIZE

from vis_projects.structures import VideoResult

pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="no Chromium with its driver: apt install chromium-driver"
)


class Server:
    """``vis annotate`` in a process of its own, as a user starts it."""

    def __init__(self, clip: Path) -> None:
        command = [sys.executable, "-m", "vis_projects", "annotate", str(clip), "--no-browser"]
        command += ["--config-file", CONFIG, "--device", "cpu"]
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        self.address = self.process.stdout.readline().split(": ", 1)[1].strip()

    def close(self) -> int:
        self.process.terminate()
        self.process.stdout.close()
        return self.process.wait(60)


@pytest.fixture
def browser() -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_window_size(1280, 720)
    yield driver
    driver.quit()


class Page:
    """What a person does on the page."""

    def __init__(self, driver, address: str) -> None:
        self.driver = driver
        driver.get(address)
        self.until(lambda: self.data("shown") == "0")

    def data(self, name: str) -> str | None:
        return self.driver.execute_script(f"return document.body.dataset.{name} ?? null")

    def until(self, condition, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it never happened; the page says: {self.message}"
            time.sleep(0.05)

    @property
    def message(self) -> str:
        return self.driver.find_element("id", "message").text

    def state(self) -> dict:
        return self.driver.execute_async_script(
            "const done = arguments[0]; import('./server.js')"
            ".then((m) => m.call('GET', 'state')).then(done, (e) => done({error: e.message}))"
        )

    def click(self, element_id: str) -> None:
        self.driver.find_element("id", element_id).click()

    def key(self, keys: str) -> None:
        self.driver.find_element("id", "stage").send_keys(keys)

    def tool(self, name: str) -> None:
        self.driver.find_element("css selector", f"[data-tool={name}]").click()

    def drag(self, *points: tuple[float, float], halfway=None) -> None:
        """Drag the pointer through points in video pixels (x, y); `halfway` is called between."""
        from selenium.webdriver.common.action_chains import ActionChains

        stage = self.driver.find_element("id", "picture")
        width, height = stage.size["width"], stage.size["height"]
        scale = min(width / SIZE[1], height / SIZE[0])
        chain = ActionChains(self.driver, duration=20)
        for k, (x, y) in enumerate(points):
            dx, dy = (x - SIZE[1] / 2) * scale, (y - SIZE[0] / 2) * scale
            chain.move_to_element_with_offset(stage, round(dx), round(dy))
            if k == 0:
                chain.click_and_hold()
            if k == 0 and halfway is not None:
                chain.perform()
                halfway()
                chain = ActionChains(self.driver, duration=20)
        chain.release().perform()

    def event_of_another_tab(self) -> None:
        """Another tab renames the first object; wait until this one has heard of it and painted."""
        self.driver.execute_script(
            "window.painted = 0; const paint = CanvasRenderingContext2D.prototype.clearRect;"
            "CanvasRenderingContext2D.prototype.clearRect = function (...box)"
            " { window.painted += 1; return paint.apply(this, box); };"
            "import('./server.js').then((m) => m.call('POST', 'objects/1',"
            " {action: 'rename', name: 'of another tab'}))"
        )
        field = "[data-name='1']"
        self.until(
            lambda: (
                self.driver.execute_script(
                    f'return window.painted > 0 && document.querySelector("{field}").value'
                )
                == "of another tab"
            )
        )

    def rename(self, object_id: int, name: str) -> None:
        from selenium.common.exceptions import StaleElementReferenceException

        for _ in range(20):  # the list may be made anew between the look and the click
            try:
                field = self.driver.find_element("css selector", f"[data-name='{object_id}']")
                field.click()
                break
            except StaleElementReferenceException:
                time.sleep(0.1)
        field.send_keys("\ue009a\ue000")  # Ctrl-A
        field.send_keys(f"{name}\t")

    def seek(self, t: int) -> None:
        self.key("\ue011")  # Home
        self.until(lambda: self.data("shown") == "0")
        for _ in range(t):
            self.key("\ue014")  # Right
        self.until(lambda: self.data("shown") == str(t))

    def picture(self, name: str) -> None:
        folder = os.environ.get("VIS_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def errors(self) -> list[str]:
        logs = self.driver.get_log("browser")
        return [entry["message"] for entry in logs if entry["level"] == "SEVERE"]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min() - 3, rows.min() - 3, columns.max() + 4, rows.max() + 4


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.fixture
def serve() -> Iterator:
    """Start servers; those that a failed test leaves are ended."""
    started: list[Server] = []

    def start(clip: Path) -> Server:
        started.append(Server(clip))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def test_the_whole_story(browser, serve, clip: Path, labels: np.ndarray) -> None:
    server = serve(clip)
    page = Page(browser, server.address)
    page.picture("1_empty")

    x0, y0, x1, y1 = box_of(labels[0] == 1)
    page.drag((x0, y0), (x1, y1))  # the box tool is chosen, an object is made by itself
    page.until(lambda: page.state()["objects"] and page.state()["objects"][0]["drawn"] == [0])
    page.click("add")
    page.until(lambda: len(page.state()["objects"]) == 2)
    page.tool("brush")
    rows, columns = np.nonzero(labels[0] == 2)
    middle = rows.mean()
    ends = (columns.min() + 4, middle), (columns.max() - 4, middle)
    page.drag(*ends, halfway=page.event_of_another_tab)  # what is being drawn stays
    page.until(lambda: page.state()["objects"][1]["drawn"] == [0])
    page.picture("2_marked")

    page.click("follow")  # thirty frames
    page.until(lambda: page.state()["objects"][0]["seen"] == [[0, 30]])
    page.until(lambda: not page.state()["busy"])
    page.seek(15)
    page.picture("3_followed")

    page.driver.find_element("css selector", "#objects li[data-id='1'] .swatch").click()
    page.tool("eraser")  # correct at frame 15: the old mask goes, the true box comes
    page.tool("polygon")
    x0, y0, x1, y1 = box_of(labels[15] == 1)
    corners = [(x0 + 3, y0 + 3), (x1 - 3, y0 + 3), (x1 - 3, y1 - 3), (x0 + 3, y1 - 3)]
    for corner in corners:
        page.drag(corner)
    page.key("\ue007")  # Enter closes it
    page.until(lambda: page.state()["objects"][0]["drawn"] == [0, 15])
    page.key("f")
    page.until(lambda: page.state()["objects"][0]["seen"][-1][1] == FRAMES - 1)
    page.until(lambda: not page.state()["busy"])
    page.picture("4_corrected")

    before = page.state()["undo"]
    page.click("undo")
    page.until(lambda: page.state()["undo"] == before - 1)
    assert page.state()["objects"][0]["seen"][-1][1] == 30
    page.until(lambda: page.driver.find_element("id", "redo").is_enabled())
    page.click("redo")
    page.until(lambda: page.state()["undo"] == before)

    page.rename(1, "red box")
    page.until(lambda: page.state()["objects"][0]["name"] == "red box")
    page.click("help")
    page.picture("5_shortcuts")
    page.driver.find_element("css selector", "#shortcuts button").click()

    for kind in ("ytvis", "overlay"):
        option = f"#kind option[value={kind}]"
        page.driver.find_element("css selector", option).click()
        page.click("export")
        page.until(lambda: page.message.startswith(("1 file", "2 files")))
    assert page.errors() == []

    assert server.close() in (0, 130)
    folder = clip.parent / "clip.mp4.annotations"
    exported = VideoResult.load(folder / "exports" / "ytvis")
    assert exported.class_names == ["red box", "object 2"]
    maps = exported.to_labels()
    assert iou(maps[0] == 1, labels[0] == 1) > 0.75
    assert iou(maps[15] == 1, labels[15] == 1) > 0.85
    assert np.array_equal(maps[20] == 1, maps[15] == 1)  # CopyFirst repeats the correction
    assert (folder / "exports" / "overlay.mp4").stat().st_size

    again = serve(clip)
    page = Page(browser, again.address)
    assert [o["name"] for o in page.state()["objects"]] == ["red box", "object 2"]
    assert page.state()["objects"][0]["drawn"] == [0, 15]
    page.driver.set_window_size(820, 1100)  # a tablet
    page.picture("6_reopened")
    assert again.close() in (0, 130)


def test_without_the_token_there_is_nothing(browser, serve, clip: Path) -> None:
    browser.get(serve(clip).address.split("?")[0])
    assert "token" in browser.find_element("tag name", "body").text
