"""Texts of clips to vectors: each different text once, into one file.

Nothing is left out in silence: clips without a text, texts of other clips, repeated, cut or
non-Latin texts are counted, and the counts are in the file.
"""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import MAGIC, MISSING, write_text_file
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.extract.texts.config import TextConfig
from tokenreel.extract.texts.encoders import encoder_label, load_encoder
from tokenreel.extract.texts.text_lines import TextLine, class_lines, read_numbered_lines

log = logging.getLogger(__name__)

SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class EmbedTextsReport:
    """What was written.

    Attributes:
        out: the file.
        num_clips: clips of the data set.
        num_texts: different texts.
        missing: prompt -> clips without a text for it.
        others: clips that the data set does not have, and texts are of.
        num_repeated: lines that say again what another says.
        num_ended: texts that their model ended at its greatest length.
        cut: texts that are longer than the encoder takes.
        not_latin: texts of which most letters are not Latin.
        what: whose texts they are, "clips" or "classes".
    """

    out: Path
    num_clips: int
    num_texts: int
    missing: dict[str, list[str]]
    others: list[str]
    num_repeated: int
    num_ended: int
    cut: list[str]
    not_latin: list[str]
    what: str = "clips"

    def lines(self) -> list[str]:
        """What a person should know, a line each."""
        found = [
            f"prompt {prompt}: {len(clips)} of {self.num_clips} {self.what} have no text, such as "
            f"{clips[0]}"
            for prompt, clips in self.missing.items()
        ]
        if self.others:
            found.append(
                f"{len(self.others)} {self.what} of the texts are not of this data set, such as "
                f"{self.others[0]}"
            )
        counts = [
            (self.num_repeated, "lines repeat another", []),
            (self.num_ended, "texts were ended by their model at its greatest length", []),
            (
                len(self.cut),
                "texts are longer than the encoder takes: their ends are cut",
                self.cut,
            ),
            (
                len(self.not_latin),
                "texts are in another script than Latin, which encoders of English do not know",
                self.not_latin,
            ),
        ]
        for count, what, texts in counts:
            if count:
                found.append(f"{count} {what}" + (f": {texts[0]!r:.{SHOWN}}" if texts else ""))
        return found


@dataclass(frozen=True)
class _Chosen:
    """The texts of a data set's clips.

    Attributes:
        texts: (clip id, prompt) -> its text.
        models: that they are of.
        others: clips of other data sets.
        num_repeated, num_ended: see EmbedTextsReport.
        sha256: of the file of texts.
    """

    texts: dict[tuple[str, str], str]
    models: list[str]
    others: list[str]
    num_repeated: int
    num_ended: int
    sha256: str


def embed_texts(
    manifest: Manifest, texts: Path, config: TextConfig, *, out: Path | None = None
) -> EmbedTextsReport:
    """Write the vectors of the texts of a data set's clips.

    Args:
        manifest: the clips.
        texts: the file of texts, see text_lines.
        config: encoder and choices.
        out: the file of vectors; beside the texts, named after them and the encoder, when None.

    Raises:
        UsageError: a wrong line, a clip with two texts for a prompt, texts of several models, or of
            no clip of the data set, an encoder that cannot be loaded, or an output that is
            somebody else's.
    """
    out = out or texts.with_name(f"{texts.stem}-{_file_label(config)}.h5")
    _require_writable(out)
    return _embed(manifest, _choose(manifest, texts, config), config, out)


def embed_class_texts(
    manifest: Manifest,
    template: str,
    config: TextConfig,
    *,
    texts: Path | None = None,
    out: Path | None = None,
) -> EmbedTextsReport:
    """Write the vectors of a text for each class of a data set, its clip ids being their names.

    Args:
        manifest: the clips; the classes are their actions.
        template: the text of a class, with {} for the words of its name.
        config: encoder and choices.
        texts: a file of texts whose clips are names of classes, in the place of the template.
        out: the file of vectors; DATASET-classes-ENCODER.h5 when None.

    Raises:
        UsageError: clips without actions, a class without a text, or as embed_texts.
    """
    names = sorted({clip.action for clip in manifest.clips} - {""})
    if not names:
        raise UsageError(f"--classes: no clip of {manifest.dataset} has an action")
    out = out or Path(f"{manifest.dataset}-classes-{_file_label(config)}.h5")
    _require_writable(out)
    classes = replace(manifest, clips=tuple(Clip(name, name) for name in names))
    if texts is None:
        lines = class_lines(names, template)
        chosen = _Chosen(
            {(line.clip, line.prompt): line.text for _, line in lines},
            [""],
            [],
            0,
            0,
            hashlib.sha256(template.encode()).hexdigest(),
        )
    else:
        chosen = _choose(classes, texts, config)
        for prompt in sorted({prompt for _, prompt in chosen.texts}):
            if lacking := [name for name in names if (name, prompt) not in chosen.texts]:
                raise UsageError(
                    f"{texts}: {len(lacking)} of {len(names)} classes of {manifest.dataset} have "
                    f"no text of prompt {prompt}, such as {lacking[0]!r}: add them"
                )
    return _embed(classes, chosen, config, out, what="classes")


def _file_label(config: TextConfig) -> str:
    """The encoder in the name of a file."""
    return encoder_label(config.encoder).replace(":", "-").replace("/", "-")


def _embed(
    manifest: Manifest, chosen: _Chosen, config: TextConfig, out: Path, *, what: str = "clips"
) -> EmbedTextsReport:
    """Encode each different text, and write the file."""
    label = encoder_label(config.encoder)
    encoder = load_encoder(config.encoder, max_tokens=config.max_tokens, device=config.device)
    different = sorted(set(chosen.texts.values()))
    place = {text: number for number, text in enumerate(different)}
    clip_ids = sorted(clip.clip_id for clip in manifest.clips)
    prompts = sorted({prompt for _, prompt in chosen.texts})
    rows = np.array(
        [
            [place.get(chosen.texts.get((clip, prompt), ""), MISSING) for prompt in prompts]
            for clip in clip_ids
        ],
        np.int64,
    )
    pooled, tokens, cut = _encode(encoder, different, keeps_tokens=config.tokens)
    report = EmbedTextsReport(
        out,
        len(clip_ids),
        len(different),
        {
            prompt: [clip_ids[row] for row in np.flatnonzero(rows[:, column] == MISSING)]
            for column, prompt in enumerate(prompts)
            if (rows[:, column] == MISSING).any()
        },
        chosen.others,
        chosen.num_repeated,
        chosen.num_ended,
        cut,
        [text for text in different if not _is_mostly_latin(text)],
        what,
    )
    write_text_file(
        out,
        clip_ids=clip_ids,
        prompts=prompts,
        texts=different,
        pooled=pooled,
        rows=rows,
        tokens=tokens,
        provenance={
            "dataset": manifest.dataset,
            "encoder": {"name": label, **encoder.identity()},
            "models": chosen.models,
            "texts_sha256": chosen.sha256,
            "counts": _counts(report),
        },
    )
    return report


def _counts(report: EmbedTextsReport) -> dict[str, Any]:
    return {
        "clips": report.num_clips,
        "texts": report.num_texts,
        "missing": {prompt: len(clips) for prompt, clips in report.missing.items()},
        "clips_of_others": len(report.others),
        "repeated": report.num_repeated,
        "ended_by_model": report.num_ended,
        "cut": len(report.cut),
        "not_latin": len(report.not_latin),
    }


def _encode(
    encoder: Any, texts: Sequence[str], *, keeps_tokens: bool
) -> tuple[NDArray[np.float32], list[NDArray[np.float16]] | None, list[str]]:
    """Pooled vectors of texts, their tokens where they are kept, and the texts that are cut."""
    pooled: list[Any] = [None] * len(texts)
    tokens: list[Any] = [None] * len(texts)
    cut = []
    with Progress(desc="texts", unit="text", total=len(texts)) as bar:
        for found in encoder.encode(texts):
            pooled[found.place] = found.pooled
            tokens[found.place] = found.tokens.astype(np.float16) if keeps_tokens else None
            if found.is_cut:
                cut.append(texts[found.place])
            bar.update()
    return np.stack(pooled), tokens if keeps_tokens else None, sorted(cut)


def _choose(manifest: Manifest, path: Path, config: TextConfig) -> _Chosen:
    """The text of each clip and prompt."""
    numbered = read_numbered_lines(path)
    ids = {clip.clip_id for clip in manifest.clips}
    clips_of = Counter(clip.video for clip in manifest.clips)
    of_video = {clip.video: clip.clip_id for clip in manifest.clips if clips_of[clip.video] == 1}
    kept: dict[tuple[str, str], tuple[int, TextLine]] = {}
    others: set[str] = set()
    num_repeated = num_ended = 0
    for number, line in _of_one_model(numbered, path, config.model):
        clip_id = line.clip if line.clip in ids else of_video.get(line.clip)
        if clip_id is None:
            others.add(line.clip)
            continue
        before = kept.setdefault((clip_id, line.prompt), (number, line))
        if before[0] == number:
            num_ended += line.is_cut
        elif before[1].text == line.text:
            num_repeated += 1
        else:
            raise UsageError(_two_texts(path, before, (number, line)))
    if not kept:
        shown = f"they are of {min(others)!r}..., " if others else ""
        raise UsageError(
            f"{path}: none of its texts is of a clip of {manifest.dataset}: {shown}its clips are "
            f"{min(ids, default='none')!r}..."
        )
    return _Chosen(
        {key: line.text for key, (_, line) in kept.items()},
        sorted({line.model for _, line in kept.values()}),
        sorted(others),
        num_repeated,
        num_ended,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _of_one_model(
    numbered: Sequence[tuple[int, TextLine]], path: Path, model: str | None
) -> list[tuple[int, TextLine]]:
    """The texts of one model; that of the file where it has one alone."""
    count = Counter(line.model for _, line in numbered)
    if model is None and len(count) > 1:
        shown = ", ".join(f"{name or 'unknown'} ({n})" for name, n in sorted(count.items()))
        raise UsageError(f"{path} has texts of {len(count)} models, {shown}: choose one by model=")
    if model is not None and model not in count:
        shown = ", ".join(sorted(name or "unknown" for name in count)) or "none"
        raise UsageError(f"model={model}: {path} has texts of {shown}")
    return [pair for pair in numbered if model is None or pair[1].model == model]


def _two_texts(path: Path, one: tuple[int, TextLine], two: tuple[int, TextLine]) -> str:
    line = one[1]
    text = (
        f"{path}:{one[0]} and :{two[0]}: clip {line.clip}, prompt {line.prompt} is "
        f"{line.text!r:.{SHOWN}} and {two[1].text!r:.{SHOWN}}"
    )
    frames = len(line.times_seconds), len(two[1].times_seconds)
    if frames[0] != frames[1]:
        return f"{text}, of {frames[0]} and {frames[1]} key frames: keep a file for each number"
    if line.picture != two[1].picture:
        return f"{text}, of two pictures of the clip: remove the line of the former"
    return f"{text}: remove one of the lines"


def _is_mostly_latin(text: str) -> bool:
    r"""Whether at least half of the letters are Latin; true of a text without letters.

    >>> [_is_mostly_latin(text) for text in ("na\u00efve", "\u8336 tea", "\u0447\u0430", "12")]
    [True, True, False, True]
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return 2 * latin >= len(letters)


def _require_writable(out: Path) -> None:
    """Refuse an output that exists and is no file of text vectors."""
    if not out.exists():
        return
    if not out.is_file():
        raise UsageError(f"--out {out} is a folder: name a file")
    with out.open("rb") as handle:
        if not handle.read(len(MAGIC)).startswith(MAGIC):
            raise UsageError(f"--out {out} exists and is no file of text vectors: name another")
