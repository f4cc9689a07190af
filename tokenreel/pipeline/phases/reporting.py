"""`evaluate report` as a call: runs -> scores -> one page with their frames."""

from collections.abc import Sequence
from pathlib import Path

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.commands.suite import SuiteReport
from tokenreel.evaluate.jobs.data import file_sha256, load_screened
from tokenreel.evaluate.report.build import write_report
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.report.pictures.frames import FrameSource
from tokenreel.pipeline.defaults import DATA
from tokenreel.pipeline.phases.evaluation import evaluate_words, published_numbers, split_words
from tokenreel.pipeline.phases.frames import frames_below

__all__ = ["frames_of", "report_scores", "report_words"]


def report_words(
    words: Sequence[str],
    *,
    out: Path,
    root: Path | None = None,
    jobs: int = 0,
    memory: str = "2GB",
    config: ReportConfig | None = None,
) -> tuple[Path, SuiteReport]:
    """Evaluate what the words name, tables included, and write OUT/index.html.

    Args:
        words: as for `evaluate all`.
        out: folder of the page and the tables; rows that stand there already are used again.
        root: folder of the videos; data/<dataset> of each run when None.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        config: what the page shows.

    Raises:
        UsageError: a word that means nothing.
        EmbeddingFileError: no file of those named can be read.
    """
    _, paths = split_words(words)
    scores = evaluate_words(words, out=out, jobs=jobs, memory=memory)
    return report_scores(paths, scores, out=out, root=root, config=config), scores


def report_scores(
    paths: Sequence[Path],
    scores: SuiteReport,
    *,
    out: Path,
    root: Path | None = None,
    config: ReportConfig | None = None,
) -> Path:
    """Write the page of embedding files that were evaluated; a file that was refused is left out.

    Raises:
        EmbeddingFileError: every file was refused.
    """
    files: list[EmbeddingFile] = []
    for path in paths:
        try:
            files.append(load_screened(path, file_sha256(path)).file)
        except (EmbeddingFileError, OSError) as error:
            last = error  # it is among the problems already
    if not files:
        raise EmbeddingFileError(f"no embedding file to report on: {last}")
    return write_report(
        files,
        scores.scores,
        out,
        frames=frames_of(files, root),
        config=config,
        published=published_numbers(),
        problems=scores.problems,
        progress=True,
    )


def frames_of(files: Sequence[EmbeddingFile], root: Path | None) -> FrameSource:
    """The frames of the clips of files: below `root`, or data/<dataset> of each when None."""
    names = dict.fromkeys(str(file.provenance.get("dataset", "")) for file in files)
    return frames_below(*([root] if root else [DATA / name for name in names]))
