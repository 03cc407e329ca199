"""The whole story in a real browser: mark, follow, correct, undo, rename, export, close, reopen.

Needs Chromium with its driver and selenium; ``VIS_SCREENSHOTS=DIR`` keeps the pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated_clip import FRAMES
from browsing import BROWSER, DRIVER, Page

from vis_projects.structures import VideoResult

pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="no Chromium with its driver: apt install chromium-driver"
)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min() - 3, rows.min() - 3, columns.max() + 4, rows.max() + 4


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


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


def test_a_press_and_a_name_outlive_events_of_other_tabs(browser, serve, clip: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page = Page(browser, serve(clip).address)
    page.click("add")
    page.until(lambda: page.driver.find_elements("css selector", "#objects li"))
    field = page.name_of(1)
    field.click()
    field.send_keys("\ue009a\ue000red")  # Ctrl-A
    page.object_of_another_tab()
    field.send_keys(" box\t")
    page.until(lambda: page.state()["objects"][0]["name"] == "red box")
    page.until(lambda: page.name_of(1).get_attribute("value") == "red box")

    delete = page.driver.find_element("css selector", "[title='Delete in all frames']")
    ActionChains(page.driver).click_and_hold(delete).perform()
    page.object_of_another_tab()
    ActionChains(page.driver).release().perform()
    page.until(lambda: [o["id"] for o in page.state()["objects"]] == [2, 3], seconds=60)
    page.until(lambda: not page.driver.find_elements("css selector", "[data-name='1']"))
    page.click("undo")  # its row comes back in its place, with its name
    page.until(lambda: page.driver.find_elements("css selector", "[data-name='1']"))
    rows = page.driver.find_elements("css selector", "#objects input")
    assert [row.get_attribute("value") for row in rows] == ["red box", "object 2", "object 3"]
    assert page.errors() == []


def test_without_the_token_there_is_nothing(browser, serve, clip: Path) -> None:
    browser.get(serve(clip).address.split("?")[0])
    assert "token" in browser.find_element("tag name", "body").text
