"""Every measured number of the pages is that of a row, and every row is of a commit."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
BENCHMARKS = TOP / "benchmarks"
HEADER = "benchmark,case,shape,device,median,unit,ratio,commit,processor_mhz"
SHARED = ("harness", "run", "tables")  # no benchmarks


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The folder of the scripts is importable, as for the scripts themselves."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in (*SHARED, "demo"):
        sys.modules.pop(name, None)


@pytest.fixture
def tables():
    return importlib.import_module("tables")


@pytest.fixture
def harness():
    return importlib.import_module("harness")


@pytest.fixture
def results(tmp_path):
    """Rows of one file: a case of two machines, and one of two sizes."""
    (tmp_path / "read.csv").write_text(
        f"{HEADER}\n"
        'read,"warm, one core",3x7,EPYC x2,0.2,s,0.385499,aaaaaaaaaaaa,2400\n'
        'read,"warm, one core",3x7,Xeon x2,0.1,s,0.9649,bbbbbbbbbbbb,2100\n'
        "read,link of 2 GB/s,small,Xeon x2,3,s,0.25,bbbbbbbbbbbb,2100\n"
        "read,link of 2 GB/s,large of 8,Xeon x2,4000,s,0.5,bbbbbbbbbbbb,2100\n"
    )
    return tmp_path


def test_every_page_has_the_numbers_of_its_rows_and_no_others(tables):
    found = []
    for page in tables.pages():
        text, name = page.read_text(), str(page.relative_to(TOP))
        written = tables.render(text)
        found += tables.differences(name, text, written)
        if page.name != "NOTES.md":
            found += tables.claims(name, written)
    assert [str(one) for one in found] == []


def test_every_row_is_of_a_commit_and_names_its_processor(tables):
    wrong = [
        f"{path.name}: {row['commit']} on {row['device']!r}"
        for path in sorted((BENCHMARKS / "results").glob("*.csv"))
        for row in tables.read_rows(path.stem)
        if not re.fullmatch(r"[0-9a-f]{12}", row["commit"]) or not row["device"]
    ]
    assert wrong == []


def test_the_commit_of_every_row_is_in_the_history(tables):
    """A row measured in a branch that was rebased afterwards is of a commit that nobody has."""

    def ask(*words):
        ran = subprocess.run(["git", *words], cwd=TOP, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout.strip()

    if ask("rev-parse", "--is-shallow-repository") != (0, "false"):
        pytest.skip("no whole history here")
    files = [path.stem for path in (BENCHMARKS / "results").glob("*.csv")]
    commits = {(file, row["commit"]) for file in files for row in tables.read_rows(file)}
    ours = {name for _, name in commits if ask("merge-base", "--is-ancestor", name, "HEAD")[0] == 0}
    assert sorted(one for one in commits if one[1] not in ours) == []


def test_every_file_of_rows_has_its_script():
    for path in (BENCHMARKS / "results").glob("*.csv"):
        assert (BENCHMARKS / f"{path.stem}.py").is_file(), path.name


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("read/warm, one core/ratio:.2f", "0.39 to 0.96"),
        ("read/warm, one core/ratio:.2fx", "0.39 to 0.96x"),
        ("read/warm, one core/device:s", "EPYC x2 and Xeon x2"),
        ("read/link of 2 GB/s [small]/inverse:.1fx", "4.0x"),
        ("read/link of 2 GB/s [large...]/ratio:.0%", "50%"),
        ("read/link of 2 GB/s [large of 8]/median:,.0f MB", "4,000 MB"),
        ("gone/warm/ratio:.2f", "not measured"),
    ],
)
def test_a_reference_is_the_number_of_its_row(tables, results, reference, text):
    assert tables.value_of(reference, results) == text
    page = f"It is <!--row:{reference}-->1<!--/row--> of it.\n"
    assert tables.render(page, results) == page.replace("-->1<", f"-->{text}<")


def test_the_last_row_of_a_machine_counts(tables, results):
    with (results / "read.csv").open("a") as file:
        file.write('read,"warm, one core",3x7,EPYC x2,0.2,s,0.5,cccccccccccc,2400\n')
    assert tables.value_of("read/warm, one core/ratio:.1f", results) == "0.5 to 1.0"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("a <!--row:read/cold/ratio:.2f-->1<!--/row-->", "no such case; there are: link of 2 GB/s"),
        ("a <!--row:read/link of 2 GB/s/ratio:.2f-->1<!--/row-->", "say which, as CASE [SHAPE]"),
        ("a <!--row:read/warm, one core/speed:.2f-->1<!--/row-->", "the columns are benchmark"),
        ("a <!--row:read/warm, one core/ratio:.2q-->1<!--/row-->", "Unknown format code 'q'"),
        ("a <!--row:read/warm, one core/unit:.2f-->1<!--/row-->", "could not convert string"),
        ("a <!--row:read-->1<!--/row-->", "write row:FILE/CASE/COLUMN:FORMAT"),
        ("<!--row:read/warm, one core/ratio:.2f-->1<!--/row-->", "a marker begins the line"),
        ("<!--given:setting-->1 %<!--/given--> of it", "a marker begins the line"),
        ("a <!--row:read/warm, one core/ratio:.2f-->1", "lacks its other half"),
        ("a <!--given:guessed-->2x<!--/given-->", "the kinds are computed, setting"),
        ("<!--table:nothing-->\n<!--/table-->\n", "the tables are demo"),
        ("<!--table:demo-->\n\n| a |\n", "lacks its other half"),
    ],
)
def test_a_wrong_marker_is_refused(tables, results, page, words):
    with pytest.raises(tables.PageError, match=re.escape(words)):
        tables.render(page, results)


@pytest.mark.parametrize(
    "text",
    [
        "it is 2x faster",
        "2.5 times as fast",
        "three times faster",
        "2\u00d7 faster",
        "10 times fewer bytes",
        "twice as fast",
        "half the time",
        "a two-fold gain",
        "30 per cent of the time",
        "thirty percent less",
        "30 %\nof it",
        "1.3 GB per second",
        "900 MiB/second",
        "5 GB\n/s",
        "120 fps",
        "340 frames per second",
        "92\u00b1.3",
        "| 0.43 +/- 0.02 |",
        "takes 4 min",
        "half an hour",
        "30 % of the time",
        "30% less",
        "0.51 of fp16's bytes",
        "at 2 GB/s",
        "some MB/s",
        "340 frames/s",
        "0.43 +- 0.02",
        "92 ± 3",
        "in 231 s",
        "takes 0.3 ms",
        "three to six minutes",
        "```text\ndone in 231 s\n```",
    ],
)
def test_what_sounds_measured_needs_a_row(tables, text):
    [*found] = tables.claims("a.md", f"# A\n\n{text}\n")
    assert found
    assert str(found[0]).startswith(f"a.md:{4 if text.startswith('`') else 3}: ")


@pytest.mark.parametrize(
    "text",
    [
        "it is <!--row:a/b/ratio:.1fx-->2x<!--/row--> faster",
        "<!--given:computed-->\n\n30 % of it, at 2 GB/s\n\n<!--/given-->",
        "<!--table:demo-->\n\n| 92 ± 3 |\n\n<!--/table-->",
        "<!-- prints: tokenreel demo -->\n```text\ndone in 231 s\n```",
        "`timeout_seconds=60 s`, an image of 16x16, 720x576, ViT-B/8 at 224",
        "28 x 28 tokens, (T, 2): 2 times, 5 clips, ones, 3.11, the 2nd of 3",
        "`x`: ones, an eighth, half of them, 28 \u00d7 28, fps=25 image_size=224 fps=6",
    ],
)
def test_what_is_marked_or_no_measurement_passes(tables, text):
    assert tables.claims("a.md", text) == []


def test_check_names_the_line_that_differs(tables, results):
    page = "# A\n\nIt is <!--row:read/link of 2 GB/s [small]/ratio:.2f-->0.3<!--/row-->.\n"
    written = tables.render(page, results)
    [found] = tables.differences("a.md", page, written)
    assert str(found).startswith("a.md:3: the rows say: It is ")
    assert "-->0.25<!--" in str(found)
    assert tables.differences("a.md", written, written) == []


def write_demo(folder, **classification):
    lines = ["case,shape,device,mean,2std,seeds,commit"]
    lines += [
        f'"{name.replace("_", "-")}, classification","s, random:0",X,{mean},{spread},{seeds},a'
        for name, (mean, spread, seeds) in classification.items()
    ]
    (folder / "demo.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("ours", "sentence"),
    [
        (0.6, "In this run MV-Former (`sample`) is above every control in classification."),
        (0.3, "In this run MV-Former (`sample`) is below `frozen-max` in classification."),
        (0.46, "In this run MV-Former (`sample`) is level with `frozen-max` in classification."),
    ],
)
def test_the_sentence_on_the_demo_is_made_of_its_rows_either_way(tables, tmp_path, ours, sentence):
    results = write_demo(
        tmp_path, sample=(ours, 0.02, 3), frozen_max=(0.45, "", 1), clock=(0.4, "", "")
    )
    assert tables.demo_sentence(results, "") == [sentence]
    *_, first, second, third = tables.demo_table(results, "")
    assert first == f"| sample | 3 | {100 * ours:.1f} ± 2.0 |  |  |  |"
    assert second == "| frozen-max | 1 | 45.0 |  |  |  |"
    assert third == "| clock |  | 40.0 |  |  |  |"


def test_tables_without_rows_say_so(tables, tmp_path):
    for name, make in tables.TABLES.items():
        assert any("not measured" in line for line in make(tmp_path, "sample")), name


def test_the_reader_is_shown_with_each_machine(tables, results):
    name = '"direct, warm, one core"'
    (results / "store_read.csv").write_text(
        "case,shape,device,ratio,processor_mhz,page_bytes,copy_gb_per_s\n"
        f"{name},3,EPYC x2,0.385,,,\n{name},3,Xeon x2,0.96,2100,4096,8.25\n"
    )
    *_, first, second = tables.reader_table(results, "")
    assert first == "| EPYC x2 | not noted | not noted | not noted | 0.39 |  |"
    assert second == "| Xeon x2 | 2100 | 4096 | 8.2 | 0.96 |  |"


def test_the_calibration_is_a_table_a_part(tables, results):
    (results / "sample_calibration.csv").write_text(
        "part,row,task,mean,2std,seeds,sample,backbone,device,commit\n"
        "bounds,clock,classification,46.7422,,1,sample-4,vit,X,a\n"
        "bounds,sample,classification,60.31,2.71181,3,sample-4,vit,X,a\n"
        "bounds,sample,tau,0.74284,0.0781463,3,sample-4,vit,X,a\n"
        "tables,carl-penn,tau,0.9,0.1,3,sample-4,vit,X,a\n"
    )
    assert tables.calibration_table(results, "bounds") == [
        "On sample-4, vit:",
        "",
        "| row | classification | tau |",
        "| --- | --- | --- |",
        "| clock | 46.7 |  |",
        "| sample | 60.3 ± 2.7 | 0.743 ± 0.078 |",
    ]
    assert tables.calibration_table(results, "tables")[-1] == "| carl-penn | 0.900 ± 0.100 |"
    reference = "sample_calibration/bounds, clock, classification/mean:.1f"
    assert tables.value_of(reference, results) == "46.7"


def test_codecs_are_a_table_a_part(tables, results):
    (results / "codecs_real.csv").write_text(
        "case,shape,device,median,ratio\n"
        '"fp16, pooled error","sample-3, vit: 9 clips",X,0,1\n'
        '"int8, pooled error","sample-3, vit: 9 clips",X,0.00963,0.5052\n'
        '"int8, change of tau","sample-3, vit: 9 clips",X,-0.0004,0.5052\n'
        '"int8, pooled error","real clips, vit: 4 clips",X,0.004,0.5052\n'
    )
    assert tables.codec_table(results, "sample") == [
        "On sample-3, vit: 9 clips:",
        "",
        "| codec | of fp16's bytes | pooled error | tau |",
        "| --- | --- | --- | --- |",
        "| fp16 | 1.000 | 0.0000 | not measured |",
        "| int8 | 0.505 | 0.0096 | -0.000 |",
    ]
    assert tables.codec_table(results, "real clips")[-1] == "| int8 | 0.505 | 0.0040 |"


def git(folder, *words):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True
    )


def test_a_checkout_is_dirty_by_its_code_not_by_rows_or_pages(harness, tmp_path):
    rows = tmp_path / "benchmarks/results"
    rows.mkdir(parents=True)
    for path in (tmp_path / "code.py", tmp_path / "README.md", rows / "a.csv"):
        path.write_text("a")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    name = harness.commit_name(tmp_path / "benchmarks")
    assert re.fullmatch("[0-9a-f]{12}", name)
    (rows / "a.csv").write_text("b")
    (tmp_path / "README.md").write_text("b")
    assert harness.commit_name(tmp_path / "benchmarks") == name
    (tmp_path / "code.py").write_text("b")
    assert harness.commit_name(tmp_path / "benchmarks") == f"{name}-dirty"


def test_a_copy_without_git_names_its_commit(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert harness.commit_name(tmp_path) == "unknown"
    monkeypatch.setenv("TOKENREEL_BENCHMARK_COMMIT", "0123456789ab")
    assert harness.commit_name(tmp_path) == "0123456789ab"


def make_row(harness, case, ratio):
    return harness.make_row(
        "b", case, harness.Timing((1.0, 2.0, 4.0)), shape="s", baseline="o", ratio=ratio
    )


def test_a_row_takes_the_place_of_its_older_one_and_names_the_machine(
    harness, tmp_path, monkeypatch
):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(harness, "COPY_BYTES", 2**20)
    harness.write_rows([make_row(harness, "one", 1.0), make_row(harness, "two", 1.0)])
    harness.write_rows([make_row(harness, "one", 3.0)])
    first, second = harness.read_rows(tmp_path / "b.csv")
    assert (first["case"], second["case"], second["ratio"]) == ("two", "one", "3")
    assert second["median"] == "2"
    assert " x" in second["device"]
    assert int(second["page_bytes"]) % 1024 == 0
    assert float(second["copy_gb_per_s"]) > 0.01
    assert float(second["processor_mhz"]) >= 0


def test_quick_rows_are_never_kept(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(harness, "COMMITTED", tmp_path)
    monkeypatch.setattr(harness, "COPY_BYTES", 2**20)
    monkeypatch.setattr(sys, "argv", ["b.py", "--quick"])
    harness.write_rows([make_row(harness, "one", 1.0)])
    assert not list(tmp_path.iterdir())


def test_fresh_rows_replace_those_of_the_machine_and_of_cases_that_are_gone(harness, tmp_path):
    run = importlib.import_module("run")
    save, read = harness.save_rows, harness.read_rows
    names = ("case", "shape", "device", "ratio")
    old = [("a", "s", "X x2", 1), ("b", "s", "X x2, one thread", 1), ("a", "s", "Y x2", 1)]
    old += [("gone", "s", "Y x2", 1)]
    save(tmp_path / "old.csv", [dict(zip(names, map(str, row), strict=True)) for row in old])
    save(tmp_path / "new.csv", [dict(zip(names, ("a", "s", "X x2", "2"), strict=True))])
    run.keep(tmp_path / "new.csv", tmp_path / "old.csv", device="X x2")
    found = [(row["case"], row["device"], row["ratio"]) for row in read(tmp_path / "old.csv")]
    assert found == [("a", "Y x2", "1"), ("a", "X x2", "2")]


OTHERS = {"sample_calibration", "codecs_real", "scene_methods"}  # they need weights or videos
ON_CPU = sorted(
    path.stem
    for path in BENCHMARKS.glob("*.py")
    if path.stem not in (*OTHERS, *SHARED) and not path.stem.endswith(("_gpu", "_fixture"))
)


def test_every_cpu_benchmark_is_run_and_has_its_seconds():
    run = importlib.import_module("run")
    assert sorted(run.SECONDS) == ON_CPU
    assert run.expected(["store_read"])[0].startswith("store_read ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_CPU)
def test_every_cpu_benchmark_runs_with_small_sizes(name):
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", name]
    ran = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("failed: none\n")


def test_a_changed_checkout_is_not_measured(monkeypatch, capsys):
    run = importlib.import_module("run")
    monkeypatch.setattr(run, "commit_name", lambda: "aaaaaaaaaaaa-dirty")
    monkeypatch.setattr(sys, "argv", ["run.py", "store_read"])
    assert run.main() == 2
    assert "commit first" in capsys.readouterr().err


def test_the_rows_of_the_demo_are_those_of_its_summary(tmp_path, monkeypatch):
    demo = importlib.import_module("demo")
    monkeypatch.setattr(demo, "RESULTS", tmp_path)
    (tmp_path / "summary.csv").write_text(
        "recipe,dataset,weights,kind,seeds,classification mean,classification 2std ddof=0\n"
        "sample,sample-3,random:0,measured,3,0.5254,0.0424\n"
        "clock,sample-3,,control,,0.4904,0.0\n"
        "sample,penn,dino,published,,0.9,0.01\n"
    )
    demo.write(demo.rows_of(tmp_path / "summary.csv"))
    found = importlib.import_module("harness").read_rows(tmp_path / "demo.csv")
    assert [(row["case"], row["mean"], row["2std"], row["seeds"]) for row in found] == [
        ("sample, classification", "0.5254", "0.0424", "3"),
        ("clock, classification", "0.4904", "", ""),
    ]


SESSION = BENCHMARKS / "gpu_session.sh"


def test_the_session_on_a_gpu_fits_a_quarter_of_an_hour_in_two_calls():
    text = SESSION.read_text()
    limits = {name: int(n) for name, n in re.findall(r"\[(\w+)\]=(\d+)", text)}
    assert limits.keys() == {"tests", "kernels", "online", "extract"}
    assert sum(limits.values()) <= 780  # and two minutes for the machine's start
    assert limits["tests"] + limits["kernels"] <= 580
    assert limits["online"] + limits["extract"] <= 580
    for script in re.findall(r'"(benchmarks/\w+\.py)', text):
        assert (TOP / script).is_file()


def test_the_session_says_in_one_line_that_there_is_no_gpu(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    for words, line in (
        ([], "gpu_session: name a folder for the rows"),
        (["out"], "gpu_session: no NVIDIA GPU here; run it where `nvidia-smi` shows one"),
    ):
        ran = subprocess.run(
            [str(tools / "bash"), str(SESSION), *words],
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(line)
        assert len(ran.stderr.splitlines()) == 1
