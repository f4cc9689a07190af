"""`extract describe` as a user types it, against an endpoint on this machine."""

import pytest
from typer.testing import CliRunner

from tests.extract.extraction import write_video
from tests.extract.texts.server import completion, send, serve
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import read_text_file
from tokenreel.extract.texts.text_lines import read_text_lines
from tokenreel.pipeline.cli.extract import app

KEY = "sk-secret"


@pytest.fixture
def videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "videos/train").mkdir(parents=True)
    write_video(tmp_path / "videos/train/a.mp4", 12)
    return tmp_path / "videos"


def describe(*words):
    words = ["describe", "folder", "--root", "videos", "--out", "t.jsonl", *words]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_nothing_is_sent_without_yes_nor_by_a_dry_run(videos):
    with serve() as script:
        words = ["--base-url", script.url, "--model", "m"]
        plain = describe(*words)
        dry = describe(*words, "--yes", "--dry-run")
    assert script.bodies == []
    assert (plain.exit_code, dry.exit_code) == (0, 0)
    for words in (
        "requests: 4 (",
        "pictures: of 1 clips, 5 key frames",
        "leave this machine for 127.0.0.1, model m",
        "those of folder in videos (terms: not stated)",
    ):
        assert words in plain.output
    assert "nothing was sent: add --yes" in plain.output
    assert "nothing was sent\n" in dry.output


def test_the_answers_to_the_four_prompts_are_written_and_the_key_is_not(videos, monkeypatch):
    with serve(send(KEY.encode(), 400)) as script:
        monkeypatch.setenv("OPENAI_BASE_URL", script.url)
        monkeypatch.setenv("OPENAI_MODEL", "m")
        first = describe("--yes", "--parallel", "1")
        again = describe("--yes", "--parallel", "1")
    assert (first.exit_code, again.exit_code) == (3, 0)
    assert "failed: train/a.mp4, A: status 400: [key]" in first.output
    assert "3 answers written to t.jsonl, 0 were there" in first.output
    assert "1 answers written to t.jsonl, 3 were there" in again.output
    lines = read_text_lines(videos.parent / "t.jsonl")
    assert sorted(line.prompt for line in lines) == ["A", "B", "C", "D"]
    assert set(script.keys) == {f"Bearer {KEY}"}
    for text in (first.output, again.output, (videos.parent / "t.jsonl").read_text()):
        assert KEY not in text


def test_prompts_may_be_given_and_requests_limited(videos):
    with serve(completion("one")) as script:
        options = ["--base-url", script.url, "--model", "m", "--yes", "--parallel", "1"]
        result = describe(
            *options, "--prompt", "B", "--prompt", "mine=what = this?", "--max-requests", "1"
        )
    assert result.exit_code == 3
    assert "stopped: 1 requests are sent (--max-requests); 1 questions are left" in result.output
    assert [line.prompt for line in read_text_lines(videos.parent / "t.jsonl")] == ["B"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "m"], "--base-url, or set OPENAI_BASE_URL"),
        (["--base-url", "https://host/v1"], "--model, or set OPENAI_MODEL"),
        (["--base-url", "http://host/v1", "--model", "m"], "unencrypted"),
        (["--base-url", "https://host/v1", "--model", "m", "--prompt", "E"], "the paper's A, B"),
        (["--base-url", "https://host/v1", "--model", "m", "--prompt", "=x"], "NAME=QUESTION"),
        (["--base-url", "https://host/v1", "--model", "m", "--prompt", "A="], "NAME=QUESTION"),
        (["--base-url", "https://host/v1", "--model", "m", *["--prompt", "A"] * 2], "given twice"),
        (["--base-url", "https://host/v1", "--model", "m", "--frames", "0"], "1 to 32 frames"),
        (["--base-url", "https://host/v1", "--model", "m", "fps=5"], "takes data.key=value"),
        (["--base-url", "https://host/v1", "--model", "m", "--limit", "0"], ""),
    ],
)
def test_words_that_mean_nothing_are_refused_before_anything_is_sent(videos, words, reason):
    result = CliRunner().invoke(
        app, ["describe", "folder", "--root", "videos", "--out", "t.jsonl", "--yes", *words]
    )
    if isinstance(result.exception, UsageError):
        assert reason in str(result.exception)
    else:
        assert result.exit_code == 2
    assert not (videos.parent / "t.jsonl").exists()


def text(*words):
    words = ["text", "folder", "--root", "videos", "--from", "t.jsonl", *words]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_texts_become_a_file_of_vectors(videos):
    (videos / "train/b.mp4").write_bytes((videos / "train/a.mp4").read_bytes())
    line = '{"clip": "train/a.mp4", "prompt": "A", "text": "pour tea"}\n'
    (videos.parent / "t.jsonl").write_text(line)
    result = text("encoder=hashed-words", "tokens=true")
    assert result.exit_code == 0
    assert "prompt A: 1 of 2 clips have no text, such as train/b.mp4" in result.output
    assert "1 texts of 2 clips: t-hashed-words.h5" in result.output
    file = read_text_file(videos.parent / "t-hashed-words.h5")
    assert file.missing(["train/a.mp4", "train/b.mp4"]) == {"A": ["train/b.mp4"]}
    assert file.has_tokens


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["encodr=minilm"], "did you mean encoder"),
        (["encoder=minlm"], "did you mean minilm"),
        (["max_tokens=0"], "max_tokens"),
        (["data.split=x"], "split"),
        (["--out", "videos"], "is a folder"),
    ],
)
def test_a_wrong_word_of_extract_text_is_refused_before_anything_is_made(videos, words, reason):
    (videos.parent / "t.jsonl").write_text('{"clip": "train/a.mp4", "prompt": "A", "text": "x"}\n')
    with pytest.raises(UsageError, match=reason):
        text(*words)
    assert sorted(path.name for path in videos.parent.iterdir()) == ["t.jsonl", "videos"]


def class_texts(*words):
    words = ["text", "folder", "--root", "videos", "--classes", "encoder=hashed-words", *words]
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture
def actions(videos):
    """Two videos, of two actions."""
    (videos / "train/b.mp4").write_bytes((videos / "train/a.mp4").read_bytes())
    table = "video,split,action\ntrain/a.mp4,train,PourTea\ntrain/b.mp4,train,lift_box\n"
    (videos / "clips.csv").write_text(table)
    return videos


def test_the_names_of_actions_become_texts_of_classes(actions):
    result = class_texts()
    assert "2 texts of 2 classes: folder-classes-hashed-words.h5" in result.output
    file = read_text_file(actions.parent / "folder-classes-hashed-words.h5")
    assert (file.clip_ids, file.prompts) == (("PourTea", "lift_box"), ("class",))
    texts = [file.texts[row] for row in file.rows_of("class", ["PourTea", "lift_box"])]
    assert texts == ["a video of pour tea", "a video of lift box"]
    class_texts("--template", "{}: an action", "--out", "other.h5")
    other = read_text_file(actions.parent / "other.h5")
    assert set(other.texts) == {"pour tea: an action", "lift box: an action"}


def test_texts_of_classes_may_come_from_a_file_that_has_every_class(actions):
    rows = "clip,prompt,text\nPourTea,A,hot water\nlift_box,A,a person bends\n"
    (actions.parent / "c.csv").write_text(rows)
    class_texts("--from", "c.csv", "--out", "c.h5")
    assert set(read_text_file(actions.parent / "c.h5").texts) == {"hot water", "a person bends"}
    (actions.parent / "c.csv").write_text(rows.replace("lift_box", "lift box"))
    with pytest.raises(UsageError, match=r"1 of 2 classes of folder have no text of prompt A, suc"):
        class_texts("--from", "c.csv", "--out", "c.h5")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--template", "a video"], "{} stands once"),
        (["--template", "{}", "--from", "t.jsonl"], "give --template or --from"),
    ],
)
def test_wrong_texts_of_classes_are_refused(actions, words, reason):
    with pytest.raises(UsageError, match=reason):
        class_texts(*words)


def test_classes_of_one_text_or_without_any_action_are_refused(actions):
    table = actions / "clips.csv"
    table.write_text(table.read_text().replace("PourTea", "lift box"))
    with pytest.raises(UsageError, match=r"'lift box' and 'lift_box' have one text, 'a video of l"):
        class_texts()
    table.write_text(table.read_text().replace("lift box", "").replace("lift_box", ""))
    with pytest.raises(UsageError, match="no clip of folder has an action"):
        class_texts()


def test_texts_of_clips_need_a_file_and_no_template(videos):
    with pytest.raises(UsageError, match="by --from FILE, or take those of actions, --classes"):
        CliRunner().invoke(app, ["text", "folder", "--root", "videos"], catch_exceptions=False)
    with pytest.raises(UsageError, match="--template is of --classes"):
        text("--template", "{}")
