"""Names that a table's format would read as its own."""

import csv

import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.escape import for_latex
from tokenreel.evaluate.protocol import EvaluateConfig

NAME = "=1+1|<b>x</b>\n\\input{secret}^~"


def tables(tmp_path, **options):
    run = write_run(tmp_path / "run", labelled_clips(NAME), run=NAME, recipe=NAME, dataset="@d")
    out = tmp_path / "out"
    evaluate_files([run], config=EvaluateConfig(), out=out, progress=False, **options)
    return {path.name: path.read_text() for path in out.iterdir() if path.suffix != ".h5"}


def test_markdown_has_no_column_html_or_line_of_a_name(tmp_path):
    lines = tables(tmp_path)["summary.md"].splitlines()
    assert lines[2].startswith("| =1+1\\|&lt;b&gt;x&lt;/b&gt; \\\\input{secret}^~ |")
    assert lines[3].startswith("| clock |")
    assert lines[4] == ""


def test_latex_has_no_command_of_a_name(tmp_path):
    text = tables(tmp_path)["summary.tex"]
    assert r"\input" not in text
    assert r"\textbackslash{}input\{secret\}\textasciicircum{}\textasciitilde{}" in text
    assert for_latex("%x") == r"\%x"


@pytest.mark.parametrize(("spreadsheet", "mark"), [(False, ""), (True, "'")])
def test_csv_has_an_apostrophe_for_a_spreadsheet_alone(tmp_path, spreadsheet, mark):
    found = tables(tmp_path, spreadsheet=spreadsheet)
    for name in ("results.csv", "summary.csv"):
        rows = list(csv.DictReader(found[name].splitlines(keepends=True)))
        assert {row["recipe"] for row in rows} == {mark + NAME, "clock"}
        assert {row["dataset"] for row in rows} == {mark + "@d"}
    values = [
        row["value"] for row in csv.DictReader(found["results.csv"].splitlines(keepends=True))
    ]
    assert all(float(value) <= 1 for value in values)
