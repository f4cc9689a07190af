"""`extract describe` and `extract text` as calls: texts of clips, and their vectors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest, first_clips
from tokenreel.extract.texts.config import TextConfig
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.defaults import root_of
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.extraction import check_limit, data_options

if TYPE_CHECKING:  # torch
    from tokenreel.extract.texts.describe import DescribeReport
    from tokenreel.extract.texts.embed_texts import EmbedTextsReport

BASE_URL, MODEL, KEY = "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"
MOST_FRAMES, MOST_HEIGHT = 32, 2160


@dataclass(frozen=True)
class DescribePlan:
    """What `extract describe` would send, and where.

    Attributes:
        manifest: the clips that are asked about.
        out: the file of texts.
        prompts: name -> question.
        url, model: of the endpoint.
        host: of the URL.
        num_frames, height: of the picture of a clip.
        num_requests: questions without an answer.
        num_pictures: clips that such questions are about.
    """

    manifest: Manifest
    out: Path
    prompts: dict[str, str]
    url: str
    model: str
    host: str
    num_frames: int
    height: int
    num_requests: int
    num_pictures: int

    def text(self) -> str:
        """The plan for people: it says what leaves the machine."""
        manifest = self.manifest
        questions = [f"  {name}: {question}" for name, question in self.prompts.items()]
        return "\n".join(
            [
                f"{manifest.dataset}: {len(manifest.clips)} clips x {len(self.prompts)} prompts",
                *questions,
                f"requests: {self.num_requests} (more where one must be repeated); the others "
                f"have their answer in {self.out}",
                f"pictures: of {self.num_pictures} clips, {self.num_frames} key frames side by "
                f"side, {self.height} pixels high",
                f"they leave this machine for {self.host}, model {self.model}",
                f"whose videos: those of {manifest.dataset} in {manifest.root} "
                f"(terms: {manifest.licence or 'not stated'}): send them only if you may",
            ]
        )


def plan_describing(
    dataset: str,
    words: Sequence[str],
    *,
    out: Path,
    root: Path | None = None,
    prompts: Sequence[str] = (),
    num_frames: int = 5,
    height: int = 336,
    limit: int | None = None,
    base_url: str | None = None,
    model: str | None = None,
) -> DescribePlan:
    """Which questions are open; nothing is sent, and no video is opened.

    Args:
        dataset: name of the data set.
        words: `data.key=value` of the data set.
        out: the file of texts.
        root: folder of the videos; data/<dataset> when None.
        prompts: "NAME=QUESTION", or names of the paper's; all four of it when empty.
        num_frames: key frames of a clip.
        height: of their picture in pixels.
        limit: only the first clips of each split.
        base_url: of the endpoint; the environment's OPENAI_BASE_URL when None.
        model: its name; the environment's OPENAI_MODEL when None.

    Raises:
        UsageError: a word, number, prompt or address that means nothing.
    """
    from tokenreel.extract.texts.describe import count_open_questions
    from tokenreel.extract.texts.endpoint import check_url

    check_limit(limit)
    if not (1 <= num_frames <= MOST_FRAMES and 16 <= height <= MOST_HEIGHT):
        raise UsageError(
            f"--frames {num_frames} --height {height}: give 1 to {MOST_FRAMES} frames of 16 to "
            f"{MOST_HEIGHT} pixels"
        )
    options, rest = data_options(words)
    if rest:
        raise UsageError(f"{rest[0]!r}: describe takes data.key=value of the data set only")
    url = base_url or os.environ.get(BASE_URL, "")
    model = model or os.environ.get(MODEL, "")
    if not url or not model:
        option, name = ("--base-url", BASE_URL) if not url else ("--model", MODEL)
        raise UsageError(f"name the endpoint's {option}, or set {name}")
    host = check_url(url, has_key=bool(os.environ.get(KEY)))
    manifest = load_dataset(dataset, root or root_of(dataset), options)
    clips = tuple(first_clips(manifest.clips, limit))
    chosen = _prompts(prompts)
    num_requests, num_pictures = count_open_questions(clips, out, chosen, model)
    return DescribePlan(
        replace(manifest, clips=clips),
        out,
        chosen,
        url,
        model,
        host,
        num_frames,
        height,
        num_requests,
        num_pictures,
    )


def describe_dataset(
    plan: DescribePlan,
    *,
    parallel: int = 4,
    per_minute: float | None = None,
    most_requests: int | None = None,
) -> "DescribeReport":
    """Ask the open questions of a plan; the key is the environment's OPENAI_API_KEY.

    Args:
        plan: what to ask.
        parallel: most questions that wait for an answer at once.
        per_minute: most requests a minute; None: any number.
        most_requests: after which the rest is left; None: any number.

    Raises:
        UsageError: see describe_clips.
    """
    from tokenreel.extract.texts.describe import describe_clips
    from tokenreel.extract.texts.endpoint import Endpoint

    endpoint = Endpoint(
        plan.url,
        plan.model,
        os.environ.get(KEY, ""),
        per_minute=per_minute,
        most_requests=most_requests,
    )
    try:
        return describe_clips(
            plan.manifest,
            plan.out,
            endpoint,
            model=plan.model,
            prompts=plan.prompts,
            num_frames=plan.num_frames,
            height=plan.height,
            parallel=parallel,
        )
    finally:
        endpoint.close()


def embed_dataset_texts(
    dataset: str,
    words: Sequence[str],
    texts: Path,
    *,
    root: Path | None = None,
    out: Path | None = None,
) -> "EmbedTextsReport":
    """Write the vectors of the texts of a data set's clips; no video is opened.

    Args:
        dataset: name of the data set.
        words: `key=value` of the encoder, `data.key=value` of the data set.
        texts: the file of texts.
        root: folder of the videos; data/<dataset> when None.
        out: the file of vectors; beside the texts when None.

    Raises:
        UsageError: see embed_texts.
    """
    options, rest = data_options(words)
    config = apply_overrides(TextConfig(), rest, root="text")
    manifest = load_dataset(dataset, root or root_of(dataset), options)
    from tokenreel.extract.texts.embed_texts import embed_texts  # torch: words are right

    return embed_texts(manifest, texts, config, out=out)


def embed_classes(
    dataset: str,
    words: Sequence[str],
    *,
    template: str,
    texts: Path | None = None,
    root: Path | None = None,
    out: Path | None = None,
) -> "EmbedTextsReport":
    """Write the vectors of a text for each action of a data set; no video is opened.

    Args:
        dataset: name of the data set.
        words: `key=value` of the encoder, `data.key=value` of the data set.
        template: the text of a class, with {} for the words of its name.
        texts: a file of texts, whose clips are names of classes, in its place.
        root: folder of the videos; data/<dataset> when None.
        out: the file of vectors; DATASET-classes-ENCODER.h5 when None.

    Raises:
        UsageError: see embed_class_texts.
    """
    options, rest = data_options(words)
    config = apply_overrides(TextConfig(), rest, root="text")
    manifest = load_dataset(dataset, root or root_of(dataset), options)
    from tokenreel.extract.texts.embed_texts import embed_class_texts  # torch: words are right

    return embed_class_texts(manifest, template, config, texts=texts, out=out)


def _prompts(words: Sequence[str]) -> dict[str, str]:
    """The prompts that words name."""
    from tokenreel.extract.texts.describe import PROMPTS

    chosen: dict[str, str] = {}
    for word in words:
        name, equals, question = (part.strip() for part in word.partition("="))
        if name in chosen:
            raise UsageError(f"--prompt {name} is given twice")
        if not name or (equals and not question) or (not equals and name not in PROMPTS):
            names = ", ".join(PROMPTS)
            raise UsageError(f"--prompt {word!r}: give NAME=QUESTION, or the paper's {names}")
        chosen[name] = question or PROMPTS[name]
    return chosen or dict(PROMPTS)
