"""The explorer in headless Chromium: clicks, lists, links and texts, asserted in pixels."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.report import browser
from tests.fuse.tiny import write_store
from tests.pipeline.explore import scene
from tests.pipeline.explore.conftest import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        browser.find_chromium() is None,
        reason="no Chromium here: apt-get install chromium, or set TOKENREEL_CHROMIUM to its path",
    ),
]

PICTURES = os.environ.get("TOKENREEL_PICTURES")  # folder that takes screenshots for the pages
PIXELS = """((canvas) => Array.from(canvas.getContext('2d')
    .getImageData(0, 0, canvas.width, canvas.height).data))"""
NUMBERS = itertools.count()
DRAWN = "document.getElementById('stage').dataset.drawn === '{}'"


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    """One browser for all tests; each goes to a link of its own."""
    with browser.Page(server.url, tmp_path_factory.mktemp("profile"), width=1400) as page:
        page.wait("document.body.dataset.ready")
        yield page
        assert [line for line in page.console if "willReadFrequently" not in line] == []  # ours
        assert all(url.startswith((server.url, "blob:", "data:")) for url in page.requests)


def go(page, drawn, **words):
    """Go to a link, and wait until the stage shows it."""
    page.run("delete document.getElementById('stage').dataset.drawn")
    words |= {"again": next(NUMBERS)}  # another address each time; the page passes it over
    page.run(f"location.hash = new URLSearchParams({json.dumps(words)}).toString()")
    page.wait(DRAWN.format(drawn))


def pixels(page, element):
    """RGB of a canvas, (height, width, 3)."""
    data = np.array(page.run(f"{PIXELS}({element})"))
    side = round((len(data) / 4) ** 0.5)
    return data.reshape(side, -1, 4)[..., :3]


def place_of(page, x, y):
    """Where a pixel of the rendered frame is on the page."""
    box = page.run("(({x, y, width}) => [x, y, width])(stage.getBoundingClientRect())")
    return box[0] + (x + 0.5) * box[2] / scene.SIDE, box[1] + (y + 0.5) * box[2] / scene.SIDE


def test_a_click_on_an_object_finds_the_same_object_in_the_next_clips(page):
    for colour in (scene.RED, scene.BLUE):
        go(page, "train/one.mp4|3|none", clip="train/one.mp4", frame="3", block="0")
        x, y = scene.centre("one", 3, colour)
        seen = pixels(page, "stage")
        assert np.abs(seen[int(y * 3.5), int(x * 3.5)] - colour).max() < 25
        page.run("delete document.getElementById('similar').dataset.done")
        page.drag(place_of(page, x, y))
        page.wait("document.getElementById('similar').dataset.done === 'true'")
        page.wait(DRAWN.format("train/one.mp4|3|similarity"))
        found = page.run(
            "[...document.querySelectorAll('#similar button')].map(({dataset}) => ({...dataset}))"
        )
        assert sorted(one["clip"] for one in found) == [
            "train/three.mp4",
            "val/four.mp4",
            "val/two.mp4",
        ]
        for number in range(3):  # what the card shows inside its frame is the object
            card = f"document.querySelectorAll('#similar canvas')[{number}]"
            image = pixels(page, card)
            row, column = divmod(int(found[number]["patch"]), scene.GRID)
            inside = image[row * 20 + 4 : row * 20 + 16, column * 20 + 4 : column * 20 + 16]
            near = (np.abs(inside - colour).max(axis=-1) < 40).mean()
            assert near > 0.5, (found[number], near)


def test_the_heat_map_is_brightest_at_the_patch_that_was_clicked(page):
    x, y = scene.centre("one", 3)
    clicks = json.dumps([["train/one.mp4", 3, str(scene.patch_at(x, y)), True]])
    words = {"clip": "train/one.mp4", "frame": "3", "block": "0", "clicks": clicks}
    go(page, "train/one.mp4|3|similarity", overlay="similarity", strength="100", **words)
    light = pixels(page, "stage").sum(axis=-1).reshape(8, 56, 8, 56)[:, 28, :, 28]
    assert light.flat[scene.patch_at(x, y)] == light.max()
    picture = scene.draw("one", 3)
    for patch in np.flatnonzero(light == light.max()).tolist():
        assert scene.is_red(picture[scene.pixels_of(patch)]).mean() > 0.3
    assert light.max() - np.median(light) > 100
    go(
        page,
        "train/one.mp4|3|similarity",
        overlay="similarity",
        strength="100",
        beside="val/two.mp4",
        **words,
    )  # without a run: as far into the clip
    light = pixels(page, "document.getElementById('beside')").sum(axis=-1)
    there, other = (scene.centre("two", 3, colour) for colour in (scene.RED, scene.BLUE))
    assert light[int(there[1] * 3.5), int(there[0] * 3.5)] > 400
    assert light[int(other[1] * 3.5), int(other[0] * 3.5)] < 300
    if PICTURES:
        go(
            page,
            "train/one.mp4|3|similarity",
            overlay="similarity",
            run="run",
            beside="val/two.mp4",
            **words,
        )
        page.wait("document.querySelectorAll('#entities canvas').length === 3")
        page.screenshot(Path(PICTURES) / "explore.png")


def test_a_box_and_an_unlike_patch_are_clicks_of_the_link(page):
    go(page, "train/one.mp4|0|none", clip="train/one.mp4", frame="0", block="0")
    page.drag(place_of(page, 24, 24), place_of(page, 56, 40))
    page.wait(DRAWN.format("train/one.mp4|0|similarity"))
    page.run("document.querySelector('[name=mode][value=unlike]').click()")
    page.drag(place_of(page, 100, 100))
    page.wait("new URLSearchParams(location.hash.slice(1)).get('clicks').includes('false')")
    clicks = json.loads(page.run("new URLSearchParams(location.hash.slice(1)).get('clicks')"))
    assert clicks == [["train/one.mp4", 0, "1,1,2,3", True], ["train/one.mp4", 0, "6,6", False]]
    page.run("document.querySelector('[name=mode][value=new]').click()")
    page.run("document.getElementById('clear').click()")
    page.wait("!document.querySelector('#similar button')")


def test_a_link_restores_the_view(page):
    words = {"clip": "val/two.mp4", "frame": "6", "block": "5", "overlay": "pca-store", "text": "o"}
    go(page, "val/two.mp4|6|pca-store", run="run", beside="train/one.mp4", strength="40", **words)
    page.wait("document.querySelectorAll('#clips li').length === 3")  # one, two, four
    shown = page.run(
        "['block', 'overlay', 'text', 'run', 'strength', 'frame'].map((n) => "
        "document.getElementById(n).value)"
    )
    assert shown == ["5", "pca-store", "o", "run", "40", "6"]
    assert page.run("document.getElementById('other').hidden") is False
    page.wait("document.getElementById('besidecaption').textContent.includes('tau')")
    page.wait("document.getElementById('caption').textContent.includes('predicted')")
    page.wait("document.querySelectorAll('#near button').length === 3")
    page.wait("document.querySelectorAll('#entities canvas').length === 3")
    seen = pixels(page, "stage")
    go(page, "val/two.mp4|0|none", clip="val/two.mp4")
    assert np.abs(pixels(page, "stage") - seen).max() > 50
    go(page, "val/two.mp4|6|pca-store", run="run", beside="train/one.mp4", strength="40", **words)
    assert np.array_equal(pixels(page, "stage"), seen)


def test_a_link_to_a_run_that_this_explorer_lacks_says_so(page):
    go(page, "train/one.mp4|2|none", clip="train/one.mp4", frame="2", run="other")
    told = page.run("document.getElementById('status').textContent")
    assert told.startswith("the link shows the run other, which this explorer was started without")
    assert page.run("document.getElementById('run').value") == ""


def test_a_link_with_what_means_nothing_shows_the_frame_and_a_sentence(page):
    go(page, "train/one.mp4|2|x", clip="train/one.mp4", frame="2", overlay="x", clicks="[1]")
    page.wait("document.getElementById('status').textContent.includes('none of pca')")
    x, y = scene.centre("one", 2)
    assert scene.is_red(pixels(page, "stage")[int(y * 3.5), int(x * 3.5)])
    page.run("location.hash = 'clip=nothing'")
    page.wait("document.getElementById('status').textContent.includes('has no clip')")
    refused = [line for line in page.console if "404" in line]
    assert len(refused) == 2  # what the server refused, as the browser says it
    page.console[:] = [line for line in page.console if line not in refused]


def test_the_keyboard_the_bands_and_play_move_through_the_clip(page):
    go(page, "train/three.mp4|0|none", clip="train/three.mp4")
    page.run("document.getElementById('frame').focus()")
    page.press("ArrowRight")
    page.wait(DRAWN.format("train/three.mp4|1|none"))
    page.run("document.getElementById('play').click()")
    page.wait("new URLSearchParams(location.hash.slice(1)).get('frame') > 3")
    page.run("document.getElementById('play').click()")
    assert page.run("document.getElementById('play').textContent") == "Play"
    seen = page.run("document.getElementById('stage').dataset.drawn")
    assert seen.startswith("train/three.mp4|")


def test_a_picture_is_saved(page):
    go(page, "train/three.mp4|2|none", clip="train/three.mp4", frame="2")
    page.run("URL.createObjectURL = (blob) => { window.saved = blob; return 'data:,'; }")
    page.run("document.getElementById('save').click()")
    assert page.wait("document.body.dataset.saved") == "train_three.mp4-2.png"
    assert page.run("saved.type") == "image/png"
    size = page.run("createImageBitmap(saved).then(({width, height}) => [width, height])")
    assert size[0] == 448
    assert size[1] > 448


def test_names_and_labels_of_somebody_else_are_text(tmp_path):
    hostile = '<img src=x onerror="window.hurt=1">'
    store = write_store(tmp_path / "s", phases=(hostile, "b"), actions=(hostile,), train=2, val=1)
    with serving(store) as server, browser.Page(server.url, tmp_path / "p") as page:
        page.wait("document.getElementById('stage').dataset.drawn")
        assert hostile in page.run("document.getElementById('legend').textContent")
        assert hostile in page.run("document.getElementById('caption').textContent")
        assert page.run("document.querySelectorAll('img').length") == 0
        assert page.run("window.hurt ?? 0") == 0
        # Without its videos: a blank grid, and one sentence.
        page.wait("document.getElementById('status').textContent.startsWith('without frames: ')")
        assert (pixels(page, "stage") == 236).mean() > 0.8
        refused = page.run("fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')")
        assert refused == "refused"
        page.console.clear()  # the frames that are not there, and what the policy refused
