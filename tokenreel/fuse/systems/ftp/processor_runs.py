"""Runs of stage 1 that give processors to stage 2: their prompts, their texts' encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.runs.provenance import read_provenance


@dataclass(frozen=True)
class ProcessorRun:
    """A run of stage 1.

    Attributes:
        path: its folder.
        prompts: of its processors.
        encoder: name and hash of the encoder of its texts.
    """

    path: Path
    prompts: tuple[str, ...]
    encoder: tuple[str, str]


def read_processor_run(path: Path) -> ProcessorRun:
    """A run of stage 1.

    Raises:
        UsageError: no such run, or one that has aligned no processors.
    """
    config = read_provenance(path).get("config")
    config = config if isinstance(config, dict) else {}
    prompts = config.get("prompts")
    is_aligned = config.get("stage") in ("align", "both") and prompts and config.get("text_encoder")
    if not is_aligned or not (path / "checkpoint.pt").exists():
        raise UsageError(
            f"processors={path}: not a trained run of stage 1: `fuse train ftp stage=align "
            "texts=FILE` makes one"
        )
    encoder = (str(config["text_encoder"]), str(config.get("text_encoder_sha256")))
    return ProcessorRun(path, tuple(map(str, prompts or ())), encoder)


def assign_prompts(
    prompts: Sequence[str], folders: Sequence[str]
) -> list[tuple[ProcessorRun, tuple[str, ...]]]:
    """Which of the prompts each run gives a processor for; [] of no run.

    Raises:
        UsageError: a prompt that none or two of them have, or texts of two encoders.
    """
    runs = [read_processor_run(Path(folder)) for folder in folders]
    for prompt in prompts if runs else ():
        having = [run.path for run in runs if prompt in run.prompts]
        if not having:
            known = ", ".join(name for run in runs for name in run.prompts)
            raise UsageError(
                f"processors: no run has a processor of prompt {prompt} (they have {known}): name "
                f"one, `fuse train ftp stage=align prompts={prompt}` trains it"
            )
        if len(having) > 1:
            raise UsageError(
                f"processors: prompt {prompt} is in {' and in '.join(map(str, having))}: name one"
            )
    require_one_encoder(runs)
    return [(run, tuple(name for name in prompts if name in run.prompts)) for run in runs]


def require_one_encoder(runs: Sequence[ProcessorRun]) -> str:
    """The encoder of the texts of some runs; "" of none.

    Raises:
        UsageError: they learned texts of two.
    """
    encoders = {run.encoder: run for run in runs}
    if len(encoders) > 1:
        named = " and ".join(
            f"{name} ({sha256[:12]}, {run.path})" for (name, sha256), run in encoders.items()
        )
        raise UsageError(
            f"processors: they learned texts of two encoders, {named}: align all with texts of one"
        )
    return next(iter(encoders))[0] if encoders else ""
