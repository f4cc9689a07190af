"""Ask a vision-language model about key frames of clips: answers are appended to a file of texts.

Source: Lu et al., Four-Tiered Prompts, section 3.1 and its four prompts.  What is asked and
answered already is not asked again: the same clip, question, model and picture.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.cache.errors import UsageError, machine_error
from tokenreel.cache.files import make_directory, write_all
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.extract.texts.endpoint import Answer, Endpoint, NoAnswer, OutOfRequests
from tokenreel.extract.texts.key_frames import KeyFrames, key_frames
from tokenreel.extract.texts.text_lines import TextLine, whole_text_lines
from tokenreel.extract.video.types import VideoError

log = logging.getLogger(__name__)

PROMPTS = {  # Four-Tiered Prompts, section 3.1
    "A": "What is the action category?",
    "B": "Describe the action components in the image",
    "C": "Describe the action in the image in detail",
    "D": "Describe the context information",
}
MOST_IN_A_ROW = 20  # questions without an answer after which the endpoint is taken for gone


@dataclass
class DescribeReport:
    """What was asked.

    Attributes:
        num_asked: questions answered now.
        num_held: questions that had their answer before.
        num_cut: of those answered now, how many the model ended at its greatest length.
        num_left: questions that were not asked, for the requests were used up or the endpoint gone.
        failed: "clip" or "clip, prompt" -> why there is no answer.
        stopped: why the rest was not asked; "" where all was.
    """

    num_asked: int = 0
    num_held: int = 0
    num_cut: int = 0
    num_left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""

    @property
    def exit_status(self) -> int:
        """3 while a question has no answer."""
        return 3 if self.failed or self.num_left else 0


def count_open_questions(
    clips: Sequence[Clip], out: Path, prompts: Mapping[str, str], model: str
) -> tuple[int, int]:
    """How many requests and pictures describe_clips would send, without decoding a video.

    An answer that is there counts as one to the picture of today.

    Raises:
        UsageError: see describe_clips.
    """
    held = {line.asked[:3] for line in _held(out, prompts)[0]}
    count = [
        sum((clip.clip_id, question, model) not in held for question in prompts.values())
        for clip in clips
    ]
    return sum(count), sum(1 for number in count if number)


def describe_clips(
    manifest: Manifest,
    out: Path,
    endpoint: Endpoint,
    *,
    model: str,
    prompts: Mapping[str, str] = PROMPTS,
    num_frames: int = 5,
    height: int = 336,
    parallel: int = 4,
) -> DescribeReport:
    """Ask a model every question about every clip, and append its answers to a file.

    Rerun to resume: whole lines stay, a line that a kill cut off is removed.  One bad video or
    question is listed and the rest goes on.

    Args:
        manifest: the clips.
        out: the file of texts, see text_lines.
        endpoint: of the model.
        model: its name, as written into each line.
        prompts: name -> question.
        num_frames: key frames of a clip, side by side in one picture (K; 5 in the paper).
        height: of that picture, in pixels.
        parallel: most questions that wait for an answer at once.

    Raises:
        UsageError: the file is written by another process, holds a line that is wrong, or the same
            prompt with another question; or the endpoint will answer nothing.
        MachineError: the file cannot be written.
    """
    make_directory(out.absolute().parent)
    report = DescribeReport()
    try:
        with lock_folder(out.absolute().parent), _Appender(out, prompts) as held:
            asked = {line.asked for line in held.lines}
            questions = _questions(
                manifest, prompts, asked, report, num_frames=num_frames, height=height, model=model
            )
            total = len(manifest.clips) * len(prompts)
            with Progress(desc="describe", unit="question", total=total) as bar:
                _ask_all(questions, endpoint, held, report, bar, parallel=parallel)
            done = report.num_asked + report.num_held + len(report.failed)
            report.num_left = max(total - done, 0) if report.stopped else 0
    except BlockingIOError as error:
        raise UsageError(
            f"{out}: another process works in its folder: wait until it ends, or name another file"
        ) from error
    return report


@dataclass(frozen=True)
class _Question:
    line: TextLine  # with an empty text
    jpeg: bytes


def _questions(
    manifest: Manifest,
    prompts: Mapping[str, str],
    asked: set[tuple[str, str, str, str]],
    report: DescribeReport,
    *,
    num_frames: int,
    height: int,
    model: str,
) -> Iterator[_Question | int]:
    """Questions without an answer; and counts of those that have one, or have no picture."""
    for clip in manifest.clips:
        try:
            picture: KeyFrames = key_frames(clip, manifest.root, count=num_frames, height=height)
        except VideoError as error:
            for name in prompts:
                report.failed[f"{clip.clip_id}, {name}"] = str(error)
            yield len(prompts)
            continue
        jpeg = b""
        for name, question in prompts.items():
            line = TextLine(
                clip.clip_id, name, "", model, question, picture.sha256, picture.times_seconds
            )
            if line.asked in asked:
                report.num_held += 1
                yield 1
                continue
            jpeg = jpeg or picture.jpeg()
            yield _Question(line, jpeg)


def _ask_all(
    questions: Iterator[_Question | int],
    endpoint: Endpoint,
    out: "_Appender",
    report: DescribeReport,
    bar: Progress,
    *,
    parallel: int,
) -> None:
    """Ask in threads; answers are written by this one, each as it comes."""
    waiting: dict[Future[Answer], TextLine] = {}
    in_a_row = 0

    def take(futures: set[Future[Answer]]) -> None:
        nonlocal in_a_row
        for future in sorted(futures, key=lambda each: waiting[each].asked):
            line = waiting.pop(future)
            try:
                answer = future.result()
            except NoAnswer as error:
                report.failed[f"{line.clip}, {line.prompt}"] = str(error)
                in_a_row += 1
            except OutOfRequests as error:
                report.stopped = str(error)
                continue
            else:
                out.append(line, answer)
                report.num_asked += 1
                report.num_cut += answer.is_cut
                in_a_row = 0
            bar.update()
        if in_a_row >= MOST_IN_A_ROW:
            report.stopped = f"{in_a_row} questions in a row got no answer"

    with ThreadPoolExecutor(parallel, thread_name_prefix="describe") as pool:
        try:
            for question in questions:
                if isinstance(question, int):
                    bar.update(question)
                    continue
                asked = pool.submit(endpoint.ask, question.line.question, question.jpeg)
                waiting[asked] = question.line
                if len(waiting) >= parallel:
                    take(wait(waiting, return_when=FIRST_COMPLETED).done)
                if report.stopped:
                    break
            while waiting:
                take(wait(waiting, return_when=FIRST_COMPLETED).done)
        except KeyboardInterrupt:
            log.warning("waiting for %d answers; Ctrl-C again drops them", len(waiting))
            endpoint.stop()
            while waiting:
                take(wait(waiting, return_when=FIRST_COMPLETED).done)
            raise
        except BaseException:
            endpoint.stop()
            raise


class _Appender:
    """A file of texts that lines are appended to, each flushed whole.

    Args:
        path: the file.
        prompts: name -> question of this run.
    """

    def __init__(self, path: Path, prompts: Mapping[str, str]) -> None:
        self.lines, num_cut = _held(path, prompts)
        try:
            self._file = path.open("ab", buffering=0)
            if num_cut:
                log.warning("%s: %d bytes of a line that was cut off are removed", path, num_cut)
                self._file.truncate(path.stat().st_size - num_cut)
        except OSError as error:
            raise machine_error(error) or UsageError(f"{path}: {error.strerror}") from error

    def __enter__(self) -> "_Appender":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, line: TextLine, answer: Answer) -> None:
        """Write a line with its answer."""
        values = {name: getattr(line, name) for name in line.__slots__}
        values |= {"text": answer.text, "is_cut": answer.is_cut}
        write_all(self._file.fileno(), TextLine(**values).json())


def _held(path: Path, prompts: Mapping[str, str]) -> tuple[list[TextLine], int]:
    """The texts that a file holds, and the bytes of a line that is cut off.

    Raises:
        UsageError: it has one of the prompts with another question.
    """
    lines, num_cut = whole_text_lines(path)
    for line in lines:
        question = prompts.get(line.prompt, line.question)
        if line.question and line.question != question:
            raise UsageError(
                f"{path}: prompt {line.prompt} asks {line.question!r} there, and {question!r} now: "
                "give the prompt another name, or another file"
            )
    return lines, num_cut
