"""The page as a browser shows it: headless Chromium, by mouse-free means alone."""

import pytest

from tests.evaluate.report import browser, made
from tokenreel.evaluate.report.build import make_report, write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        browser.find_chromium() is None,
        reason="no Chromium here: apt-get install chromium, or set TOKENREEL_CHROMIUM to its path",
    ),
]

VALUES = """[...document.querySelectorAll('#score-table tbody tr')].filter((row) => !row.hidden)
    .map((row) => row.cells[6].dataset.key ?? null)"""
LOADED = """Promise.all([
    ...[...document.images].map((image) => image.decode().then(() => image.naturalWidth > 0)),
    ...[...document.querySelectorAll('svg image')].map((picture) => {
        const image = new Image();
        image.src = picture.getAttribute('href');
        return image.decode().then(() => image.naturalWidth > 0);
    }),
]).then((all) => [all.length, all.every(Boolean)], (error) => [0, String(error)])"""


@pytest.fixture(scope="module")
def path(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    page = make_report(evaluated.files, evaluated.scores.scores, frames=made.make_frames)
    return write_report(page, folder)


@pytest.fixture(scope="module")
def shared_page(path, tmp_path_factory):
    """One browser for all tests that leave the page as it is, or set what they need."""
    with browser.Page(path, tmp_path_factory.mktemp("profile")) as page:
        yield page
        assert page.console == []
        assert page.requests == [path.as_uri()]


@pytest.fixture
def page(shared_page):
    """The page, its fields empty."""
    shared_page.run("document.querySelector('form.controls').reset()")
    shared_page.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    return shared_page


def test_it_says_nothing_on_the_console_and_asks_for_no_other_file(page, path):
    assert page.run("document.readyState") == "complete"
    assert page.console == []
    assert page.requests == [path.as_uri()]


def test_every_picture_is_loaded(page):
    count, is_loaded = page.run(LOADED)
    assert is_loaded is True
    assert count == page.run("document.images.length") + 4
    assert count > 60


def test_a_heading_sorts_by_keyboard_and_tells_so(page):
    head = "document.querySelectorAll('#score-table th')[6]"
    page.run(f"{head}.querySelector('button').focus()")
    page.press("Enter", text="\r")
    rising = [float(value) for value in page.run(VALUES) if value is not None]
    assert rising == sorted(rising)
    assert len(set(rising)) > 10
    assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    page.press("Enter", text="\r")
    falling = [float(value) for value in page.run(VALUES) if value is not None]
    assert falling == rising[::-1] or falling == sorted(rising, reverse=True)
    assert page.run(f"{head}.getAttribute('aria-sort')") == "descending"
    others = page.run("document.querySelectorAll('#score-table th[aria-sort=none]').length")
    assert others == page.run("document.querySelectorAll('#score-table th').length") - 1


def test_numbers_sort_as_numbers_and_missing_ones_last(page):
    frames = (
        "[...document.querySelectorAll('#score-table tbody tr')].map((r) => r.cells[6].dataset)"
    )
    page.run("document.querySelectorAll('#score-table tbody tr')[3].cells[6].dataset.key = '1e-9'")
    page.run("delete document.querySelectorAll('#score-table tbody tr')[5].cells[6].dataset.key")
    page.run("document.querySelectorAll('#score-table tbody tr')[5].cells[6].textContent = '-'")
    for order in ("ascending", "descending"):
        page.run("document.querySelectorAll('#score-table th button')[6].click()")
        keys = [row.get("key") for row in page.run(f"{frames}.map((d) => ({{...d}}))")]
        assert keys[-1] is None, order
        known = [float(key) for key in keys if key is not None]
        assert known == sorted(known, reverse=order == "descending")


def test_typing_filters_the_rows_and_counts_them(page):
    total = len(page.run(VALUES))
    page.run("document.getElementById('filter').focus()")
    page.type("noisy  PROGRESSION")
    texts = page.run(
        "[...document.querySelectorAll('#score-table tbody tr')].filter((row) => !row.hidden)"
        ".map((row) => row.textContent)"
    )
    assert len(texts) == 3
    assert all("noisy" in text and "progression" in text for text in texts)
    assert page.run("document.getElementById('shown').textContent") == f"3 of {total} rows"


def test_a_choice_filters_by_task_and_action(page):
    page.run(
        """for (const [name, value] of [['task', 'tau'], ['action', 'jump']]) {
            const field = document.querySelector(`select[data-column=${name}]`);
            field.value = value;
            field.dispatchEvent(new Event('change'));
        }"""
    )
    assert len(page.run(VALUES)) == 4  # three runs and the clock
    assert page.run("document.getElementById('shown').textContent").startswith("4 of ")


def test_the_slider_moves_both_screens_and_the_circle_by_keyboard(page):
    state = """(() => { const a = document.querySelector('article.pair'); return [
        ...[...a.querySelectorAll('.sheet')].map((s) => s.style.transform),
        ...[...a.querySelectorAll('.now')].map((s) => s.textContent),
        ...['cx', 'cy'].map((k) => a.querySelector('.cursor:not([hidden])').getAttribute(k)),
        a.querySelector('.step').getAttribute('aria-valuetext')]; })()"""
    page.run("document.querySelector('article.pair .step').focus()")
    before = page.run(state)
    page.press("End")
    after = page.run(state)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert after[-1].split()[1] == after[-1].split()[3]  # step n of n
    assert "land" in after[2]


def test_another_run_takes_its_circle_along(page):
    shown = """[...document.querySelector('article.pair').querySelectorAll('svg[data-run]')]
        .filter((drawing) => !drawing.querySelector('.cursor').hasAttribute('hidden'))
        .map((drawing) => drawing.dataset.run)"""
    assert page.run(shown) == ["0"]
    page.run(
        "(() => { const c = document.querySelector('article.pair select.run'); c.value = '1';"
        "c.dispatchEvent(new Event('change')); })()"
    )
    assert page.run(shown) == ["1"]


def test_the_keyboard_reaches_everything_and_the_first_stop_skips_the_menu(page):
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    stops = "a, button, input, select, summary, [tabindex='0']"
    wanted = page.run(f'document.querySelectorAll("{stops}").length')
    seen = []
    for _ in range(wanted):
        page.press("Tab")
        seen.append(
            page.run(
                "(() => { const e = document.activeElement; e.dataset.seen = 1;"
                "return e.className || e.tagName; })()"
            )
        )
    assert "skip" in seen
    assert page.run("document.querySelectorAll('[data-seen]').length") == wanted


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1200, True)])
def test_it_fits_a_phone_and_follows_the_dark_scheme(path, tmp_path, width, dark):
    with browser.Page(path, tmp_path, width=width, dark=dark) as page:
        assert page.run("document.documentElement.scrollWidth") <= width
        colour = page.run("getComputedStyle(document.body).backgroundColor")
        levels = [int(word) for word in colour.strip("rgb()").split(",")]
        assert (max(levels) < 60) == dark
        assert page.console == []


CONTRAST = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (colour) => {
        const [r, g, b] = colour.map((value) => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const colour = rgba(getComputedStyle(e).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    const kinds = 'p, li, th, td, small, span, a, button, figcaption, label, h1, h2, h3, u, strong';
    const bad = new Set();
    for (const e of document.querySelectorAll(kinds)) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.offsetParent || e.closest('.skip')) continue;
        const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) bad.add(`${e.tagName}.${e.className} ${e.textContent} ${ratio}`);
    }
    return [...bad];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_is_readable_on_what_is_behind_it(path, tmp_path, dark):
    """Contrast of at least 4.5, as the accessibility guidelines ask."""
    with browser.Page(path, tmp_path, dark=dark) as page:
        assert page.run(CONTRAST) == []


HIDDEN = """[...document.querySelectorAll('.wide')].filter((e) => e.offsetParent).map((e) => {
    const region = e.querySelector('.scroll');
    const more = getComputedStyle(e.querySelector('.more')).display !== 'none';
    return [region.getAttribute('aria-label'), region.scrollWidth > region.clientWidth + 1, more];
})"""
OUTSIDE = """[...document.querySelectorAll('th, td, svg, img, p, li, dd')]
    .filter((e) => e.getClientRects().length && !e.closest('.skip'))
    .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map((e) => `${e.tagName}.${e.getAttribute('class')} ${e.textContent.slice(0, 30)}`)"""
A4_WIDTH = 1047  # CSS pixels of A4 on its side between margins of 10 mm


@pytest.mark.parametrize("width", [1300, 420])
def test_tables_fit_or_say_that_they_scroll(path, tmp_path, width):
    with browser.Page(path, tmp_path / "profile", width=width) as page:
        assert page.run("document.documentElement.scrollWidth") <= width
        regions = page.run(HIDDEN)
        assert len(regions) > 8
        for label, is_wider, says_so in regions:
            assert is_wider == says_so, label
        if width == 1300:  # nothing of the summary and the confusion is cut
            wide = {label.partition(",")[0] for label, is_wider, _ in regions if is_wider}
            assert not {"Summary table", "Confusion matrix"} & wide


def test_it_prints_whole(path, tmp_path):
    with browser.Page(path, tmp_path / "profile") as page:
        page.pdf(tmp_path / "page.pdf")
        data = (tmp_path / "page.pdf").read_bytes()
        assert data.startswith(b"%PDF")
        assert data.count(b"/Type /Page\n") + data.count(b"/Type /Page/") > 1
        page.print_media(A4_WIDTH)
        assert page.run(OUTSIDE) == []
        assert page.run(
            "[...document.querySelectorAll('.scroll')].every((e) => "
            "getComputedStyle(e).overflowX === 'visible')"
        )


def test_a_colour_means_one_thing(page):
    colours = """(names) => names.map((name) => {
        const e = document.createElement('span');
        e.className = `swatch ${name}`;
        document.body.append(e);
        const colour = getComputedStyle(e).backgroundColor;
        e.remove();
        return colour;
    })"""
    recipes = page.run(f"({colours})({[f'c{i}' for i in range(8)]})")
    phases = page.run(f"({colours})({[f'p{i}' for i in range(8)]})")
    assert len({*recipes, *phases}) == 16
    text = """(kind) => getComputedStyle(document.querySelector(kind)).color"""
    for kind in (".right", ".wrong"):
        assert page.run(f"({text})('{kind}')") not in {*recipes, *phases}


def test_every_metric_has_its_sentence_behind_a_link(page):
    links = page.run("[...document.querySelectorAll('a.metric')].map((a) => a.hash)")
    assert set(links) == {
        f"#metric-{name}" for name in ("classification", "progression", "tau", "retrieval")
    }
    for link in set(links):
        words = page.run(f"document.querySelector('{link} + dd').textContent")
        assert "higher is better" in words
        assert "It rewards" in words


def test_the_legend_of_an_alignment_names_its_phases(page):
    shown = page.run(
        "[...document.querySelectorAll('article.pair .legend li')].map((e) => e.textContent)"
    )
    assert shown == ["crouch", "fly", "land", "up", "down"]
