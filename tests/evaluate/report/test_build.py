"""The whole page: what is in it, what is never in it, and that it is the same each time."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.evaluate.report import made
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.report.build import make_report, write_report
from tokenreel.evaluate.report.data.gather import ReportConfig

SECTIONS = [
    "summary",
    "actions",
    "alignment",
    "retrieval",
    "confusion",
    "projection",
    "attention",
    "training",
    "scores",
    "metrics",
    "provenance",
]
VOID = {"img", "input", "meta", "br", "col"}


class Outline(HTMLParser):
    """Elements of a page, each checked to be closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.elements, self._open, self.texts = [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, name, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), f"{name}: an attribute twice"
        self.elements.append((name, found, tuple(self._open)))
        if name not in VOID:
            self._open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes), tuple(self._open)))

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, name):
        return [attributes for kind, attributes, _ in self.elements if kind == name]


def page_of(evaluated, *, frames=made.make_frames, **options):
    scores = evaluated.scores.scores
    return make_report(evaluated.files, scores, frames=frames, **options).decode()


@pytest.fixture(scope="module")
def page(evaluated):
    return page_of(evaluated)


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_it_has_its_sections_in_order_and_a_link_to_each(outline):
    assert [about["id"] for about in outline.named("section")] == SECTIONS
    links = [about["href"] for about in outline.named("a") if "class" not in about]
    assert links == [f"#{name}" for name in SECTIONS]


def test_the_same_inputs_in_another_folder_give_the_same_bytes(page, tmp_path):
    again = made.write_runs(tmp_path / "elsewhere")
    assert page_of(again) == page
    assert "elsewhere" not in page


def test_it_asks_for_nothing_outside_itself(page, outline):
    for name, about, _ in outline.elements:
        for key in ("src", "href"):
            assert about.get(key, "#").startswith(("#", "data:image/")), (name, about)
    assert not re.search(r"https?://|@import|url\(", page)
    [policy] = [m["content"] for m in outline.named("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy


def test_names_are_unique_and_those_referred_to_are_there(outline):
    names = [about["id"] for _, about, _ in outline.elements if "id" in about]
    assert len(set(names)) == len(names)
    for _, about, _ in outline.elements:
        if "aria-labelledby" in about:
            assert about["aria-labelledby"] in names


def test_a_screen_reader_has_words_for_everything(outline):
    assert all("alt" in about for about in outline.named("img"))
    assert all(about.get("scope") for about in outline.named("th"))
    drawings = [about for about in outline.named("svg") if about.get("aria-hidden") != "true"]
    assert all(about["role"] == "img" and about["aria-label"] for about in drawings)
    for name, _, above in outline.elements:
        if name in ("input", "select"):
            assert "label" in above
    regions = [about for _, about, _ in outline.elements if about.get("role") == "region"]
    assert all(about["tabindex"] == "0" and about["aria-label"] for about in regions)


def test_right_and_wrong_are_told_by_sign_and_word_not_by_colour_alone(page):
    verdicts = re.findall(r'<span class="phase (right|wrong)" title="([^"]+)">(.)', page)
    assert {(kind, sign) for kind, _, sign in verdicts} == {
        ("right", "\u2713"),
        ("wrong", "\u2717"),
    }
    assert {title for _, title, _ in verdicts} >= {"right", "wrong", "same phase", "another phase"}


def test_without_frames_it_says_so_and_has_no_picture_of_them(evaluated):
    page = page_of(evaluated, frames=made.unreachable_frames)
    assert "Without the frames of" in page
    assert "no such file" in page
    assert Outline(page).named("img") == []
    assert page.count('class="heat"') == 4  # the matrices need no frames


def test_every_score_is_a_row_with_its_value(evaluated, outline):
    rows = [about for about in outline.named("tr") if "data-task" in about]
    assert len(rows) == len(evaluated.scores.scores)
    keys = [about["data-key"] for about in outline.named("td") if "data-key" in about]
    wanted = [repr(s.value) for s in evaluated.scores.scores if s.value == s.value]
    assert keys == wanted


def test_random_weights_and_problems_stand_above_the_tables(evaluated):
    page = page_of(evaluated, problems=["run r: clip <b>: NaN"])
    assert "random weights (random:0)" in page
    assert "run r: clip &lt;b&gt;: NaN" in page


def test_the_bounds_of_the_config_are_kept(evaluated):
    config = ReportConfig(actions=1, recipes=1, queries=1, k=2, title="A & B", strip_frames=3)
    page = page_of(evaluated, config=config)
    assert "<h1>A &amp; B</h1>" in page
    assert page.count('class="heat"') == 1
    assert "Action jump" in page
    assert "Action wave" not in page
    body = Outline(page)
    # strips: 3 query frames and 3 matches; retrieval: a query and 2 found; 2 sheets of the slider
    assert len(body.named("img")) == 3 + 3 + 1 + 2 + 2


def test_a_name_that_is_markup_stays_a_name(evaluated):
    evil = "</script><img src=x onerror=alert(1)>"
    clips = tuple(
        replace(clip, clip_id=f"{evil}{clip.clip_id}", phases=tuple(evil for _ in clip.phases))
        for clip in evaluated.files[0].clips
    )
    about = {**evaluated.files[0].provenance, "recipe": evil, "run": evil}
    file = EmbeddingFile(evaluated.files[0].path, about, clips)
    scores = [replace(score, recipe=evil, note=evil) for score in evaluated.scores.scores]
    page = make_report([file], scores, frames=made.make_frames).decode()
    outline = Outline(page)
    assert not any("onerror" in about for about in outline.named("img"))
    assert len(outline.named("script")) == 2 + 1  # two alignments and the page's own


def test_without_actions_groups_are_compared_and_lone_clips_are_said_to_be(evaluated):
    clips = [
        replace(clip, action="", labels=clip.labels * 0 - 1, phases=())
        for clip in evaluated.files[0].clips
    ]
    lone = EmbeddingFile(evaluated.files[0].path, {}, tuple(clips))
    page = make_report([lone], [], frames=made.make_frames).decode()
    assert "No action or group has two clips to compare." in page
    grouped = [replace(clip, group=clip.clip_id[:4]) for clip in clips]
    file = EmbeddingFile(evaluated.files[0].path, {}, tuple(grouped))
    page = make_report([file], [], frames=made.make_frames).decode()
    assert "Group jump" in page
    assert "no labelled clips to learn from" in page
    assert "unlabelled" in page


def test_no_file_is_an_error():
    with pytest.raises(ValueError, match="at least one embedding file"):
        make_report([], [], frames=made.make_frames)


def test_it_is_written_whole_into_a_folder_that_is_made(evaluated, tmp_path):
    page = make_report(evaluated.files, evaluated.scores.scores, frames=made.make_frames)
    path = write_report(page, tmp_path / "a/b")
    assert path.read_bytes() == page
    assert path == tmp_path / "a/b/index.html"
    assert path.read_text().startswith("<!doctype html>")
    assert [item.name for item in path.parent.iterdir()] == ["index.html"]
