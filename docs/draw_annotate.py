"""Draw the pictures of docs/annotate.md: drives the page in headless Chromium on a real clip.

python docs/draw_annotate.py DAVIS/JPEGImages/480p/dog

needs Chromium with its driver and selenium. The sequence is of DAVIS 2016 (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

IMAGES = Path(__file__).parent / "images"
SIZE = (480, 854)  # rows, columns of the sequence
BOX = (147, 7, 516, 309)  # the dog in frame 0: x0, y0, x1, y1
FRAMES = 30


class Page:
    """The page in a browser."""

    def __init__(self, address: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        service = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_window_size(1280, 863)  # 720 rows of page
        self.driver.get(address)
        self.until(lambda: self.driver.execute_script("return document.body.dataset.shown") == "0")

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.1)

    def state(self) -> dict:
        return self.driver.execute_async_script(
            "const done = arguments[0]; import('./server.js')"
            ".then((m) => m.call('GET', 'state')).then(done)"
        )

    def drag(self, x0: float, y0: float, x1: float, y1: float, *, release: bool = True) -> None:
        stage = self.driver.find_element("id", "picture")
        scale = min(stage.size["width"] / SIZE[1], stage.size["height"] / SIZE[0])
        chain = ActionChains(self.driver, duration=100)
        for k, (x, y) in enumerate(((x0, y0), (x1, y1))):
            place = (round((x - SIZE[1] / 2) * scale), round((y - SIZE[0] / 2) * scale))
            chain.move_to_element_with_offset(stage, *place)
            chain = chain.click_and_hold() if k == 0 else chain
        (chain.release() if release else chain).perform()

    def keys(self, keys: str) -> None:
        self.driver.find_element("id", "stage").send_keys(keys)

    def picture(self, name: str) -> None:
        time.sleep(0.5)
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as image:
            image.convert("RGB").save(IMAGES / f"annotate_{name}.jpg", quality=80, optimize=True)


def tell(page: Page) -> None:
    """Mark, follow, correct; a picture of each."""
    page.drag(*BOX, release=False)
    page.picture("box")
    ActionChains(page.driver).release().perform()
    page.until(lambda: any(o["drawn"] for o in page.state()["objects"]))
    page.driver.find_element("css selector", "[data-name='1']").send_keys("\ue009a\ue000dog\t")
    page.until(lambda: page.state()["objects"][0]["name"] == "dog")
    page.keys("f")
    page.until(lambda: page.state()["objects"][0]["seen"] == [[0, FRAMES]])
    page.until(lambda: not page.state()["busy"])
    page.keys("\ue014" * 20)  # right
    page.until(lambda: page.driver.execute_script("return document.body.dataset.shown") == "20")
    page.picture("followed")
    page.driver.find_element("css selector", "[data-tool=brush]").click()
    page.keys("]]")  # a larger brush
    page.drag(467, 212, 438, 350)  # the leg that is left out
    page.until(lambda: 20 in page.state()["objects"][0]["drawn"])
    page.picture("corrected")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", type=Path, help="folder of frames")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vis_projects", "annotate", str(args.frames)]
        command += ["--project", f"{folder}/annotations", "--no-browser"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            page = Page(re.search(r"http://\S+", server.stdout.readline())[0])
            try:
                tell(page)
            finally:
                page.driver.quit()
        finally:
            server.terminate()
            server.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
