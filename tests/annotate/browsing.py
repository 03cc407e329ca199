"""The page of ``vis annotate`` in headless Chromium, and what a person does on it.

``VIS_SCREENSHOTS=DIR`` keeps the pictures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from annotated_clip import CONFIG, SIZE

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


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


def browsers() -> Iterator:
    """One headless Chromium; it is closed at the end."""
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


_MISFITS = """
const width = document.documentElement.clientWidth;
const scrolled = (e) => {
  for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== 'visible') return true;
  return false;
};
const wide = [...document.querySelectorAll('main *, section *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width > 0 && box.right > width + 2 && !scrolled(e); });
const broken = [...document.images].filter((i) => i.complete && !i.naturalWidth);
return {width, page: document.documentElement.scrollWidth,
  wide: wide.slice(0, 5).map((e) => e.tagName + ' ' + e.textContent.slice(0, 40)),
  broken: broken.map((i) => i.src.slice(0, 80))};
"""


def misfits(driver, file: Path, width: int) -> dict:
    """What of a page's file lies outside a window of so many pixels, and its broken pictures."""
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 800}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get(file.resolve().as_uri())
        found = driver.execute_script(_MISFITS)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    if found["page"] > found.pop("width") + 2:
        found["wide"].append(f"the page is {found['page']} pixels wide")
    del found["page"]
    return {name: value for name, value in found.items() if value}


class Page:
    """What a person does on the page."""

    def __init__(self, driver, address: str) -> None:
        self.driver = driver
        driver.get(address)
        self.until(lambda: self.data("shown") == "0")

    def data(self, name: str) -> str | None:
        return self.driver.execute_script(f"return document.body.dataset.{name} ?? null")

    def until(self, condition, seconds: float = 400) -> None:
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

    def name_of(self, object_id: int):
        """The field of an object's name."""
        return self.driver.find_element("css selector", f"[data-name='{object_id}']")

    def rename(self, object_id: int, name: str) -> None:
        field = self.name_of(object_id)
        field.click()
        field.send_keys("\ue009a\ue000")  # Ctrl-A
        field.send_keys(f"{name}\t")

    def object_of_another_tab(self) -> None:
        """Another tab makes an object; wait until this one lists it."""

        def listed() -> int:
            return len(self.driver.find_elements("css selector", "#objects li"))

        before = listed()
        self.driver.execute_script(
            "import('./server.js').then((m) => m.call('POST', 'objects', {name: ''}))"
        )
        self.until(lambda: listed() == before + 1)

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
