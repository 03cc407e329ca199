"""The page at 1280 x 720 and on a tablet: nothing is cut off or covered, text can be read, and a
screen reader finds a name for everything that can be operated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browsing import BROWSER, DRIVER, Page

pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="no Chromium with its driver: apt install chromium-driver"
)
OPERATED = {"button", "textbox", "slider", "spinbutton", "combobox", "image", "dialog"}
# Boxes of all that can be operated and is shown; contrast of its text with what lies behind it.
_LOOK = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
const found = [];
const all = "button, input, select, #place, #message, h2, .soft, strong";
for (const e of document.querySelectorAll(all)) {
  if (e.closest("dialog") || !e.offsetParent) continue;
  const b = e.getBoundingClientRect(), style = getComputedStyle(e), text = e.textContent.trim();
  const [a, c] = [light(parse(style.color)), light(ground(e))];
  found.push({
    name: e.id || text || e.dataset.name, box: [b.left, b.top, b.right, b.bottom], text: !!text,
    disabled: !!e.disabled, size: parseFloat(style.fontSize),
    leaf: e.matches("button, input, select"),
    contrast: (Math.max(a, c) + 0.05) / (Math.min(a, c) + 0.05),
  });
}
const stage = document.getElementById("stage").getBoundingClientRect();
return { found, width: innerWidth, height: innerHeight, stage: [stage.width, stage.height],
         scroll: document.documentElement.scrollWidth };
"""


# Whether the picture holds a frame: nothing of it is transparent in the middle.
_SEEN = """
const page = document.getElementById("picture");
const middle = [page.width >> 1, page.height >> 1];
arguments[0](page.getContext("2d").getImageData(...middle, 1, 1).data[3] === 255);
"""
# The largest difference between the picture on the page and frame t, at some points.
_DIFFERENCE = """
const [t, done] = [arguments[0], arguments[arguments.length - 1]];
import("./server.js").then((m) => m.image(`frames/${t}`)).then((frame) => {
  const page = document.getElementById("picture");
  const g = new OffscreenCanvas(frame.width, frame.height).getContext("2d");
  g.drawImage(frame, 0, 0);
  const scale = Math.min(page.width / frame.width, page.height / frame.height);
  const left = (page.width - frame.width * scale) / 2;
  const top = (page.height - frame.height * scale) / 2;
  let most = 0;
  for (const [x, y] of [[20, 20], [80, 48], [140, 20], [20, 80], [140, 80]]) {
    const a = g.getImageData(x, y, 1, 1).data;
    const b = page.getContext("2d").getImageData(
      Math.round(left + (x + 0.5) * scale), Math.round(top + (y + 0.5) * scale), 1, 1).data;
    for (let k = 0; k < 4; k++) most = Math.max(most, Math.abs(a[k] - b[k]));
  }
  done(most);
});
"""


@pytest.mark.parametrize("size", [(1280, 720), (820, 1100)], ids=["desktop", "tablet"])
def test_nothing_is_cut_off_covered_or_pale(browser, serve, clip: Path, labels, size) -> None:
    server = serve(clip)
    page = Page(browser, server.address)
    inner = page.driver.execute_script(
        "return [outerWidth - innerWidth, outerHeight - innerHeight]"
    )
    page.driver.set_window_size(size[0] + inner[0], size[1] + inner[1])
    rows, columns = np.nonzero(labels[0] == 1)
    page.drag((columns.min() - 3, rows.min() - 3), (columns.max() + 4, rows.max() + 4))
    page.until(lambda: any(o["drawn"] for o in page.state()["objects"]))
    page.until(lambda: page.driver.find_elements("css selector", "#objects li"))
    page.until(lambda: page.driver.execute_async_script(_SEEN))
    page.picture(f"layout_{size[0]}")
    look = page.driver.execute_script(_LOOK)
    assert look["scroll"] <= look["width"]
    assert look["stage"][0] > 0.6 * look["width"] and look["stage"][1] > 0.6 * look["height"]
    for thing in look["found"]:
        left, top, right, bottom = thing["box"]
        inside = 0 <= left < right <= look["width"] and 0 <= top < bottom <= look["height"]
        assert inside, thing
        assert thing["size"] >= 12, thing
        if thing["text"] and not thing["disabled"]:
            assert thing["contrast"] >= 4.5, thing  # WCAG 2.1, AA
    boxes = [(t["name"], t["box"]) for t in look["found"] if t["leaf"]]
    for k, (name, a) in enumerate(boxes):
        for other, b in boxes[:k]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (name, other)


def test_events_never_leave_another_frame_under_the_masks(browser, serve, clip: Path) -> None:
    """Masks come anew with every event, while the frame that a person went to is on its way."""
    page = Page(browser, serve(clip).address)
    page.click("add")
    page.until(lambda: len(page.state()["objects"]) == 1)
    for t in range(1, 13):
        page.driver.execute_script(
            "import('./server.js').then((m) => m.call('POST', 'objects/1', "
            "{action: 'rename', name: String(arguments[0])}))",
            t,
        )
        page.key("\ue014")  # Right
    page.until(lambda: page.state()["undo"] == 13 and page.data("shown") == "12")

    def differs() -> float:
        return page.driver.execute_async_script(_DIFFERENCE, 12)

    page.until(lambda: differs() < 16)


def test_a_screen_reader_finds_names(browser, serve, clip: Path) -> None:
    page = Page(browser, serve(clip).address)
    page.click("add")
    page.until(lambda: page.driver.find_elements("css selector", "#objects li"))
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [n for n in nodes if not n.get("ignored")]
    named = {}
    for node in shown:
        role = node.get("role", {}).get("value", "").lower()
        if role in OPERATED or role in ("canvas", "img"):
            name = node.get("name", {}).get("value", "").strip()
            assert name, f"a {role} has no name"
            named.setdefault(role, []).append(name)
    assert {"button", "textbox", "slider", "spinbutton", "combobox"} <= set(named)
    assert "Timeline" in named["slider"] and "Name of object 1" in named["textbox"]
    roles = {n.get("role", {}).get("value") for n in shown}
    assert {"toolbar", "status"} <= roles
