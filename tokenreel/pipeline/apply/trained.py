"""What is taken from a trained run to apply it: a probe of phases, or the names of its scores."""

from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.data.clips import file_sha256
from tokenreel.fuse.runs.provenance import read_config, read_provenance, stores_of
from tokenreel.fuse.runs.run_folder import TOKENS
from tokenreel.fuse.systems.base import system_of
from tokenreel.pipeline.apply.probes import Probe, fit_probes, labelled_actions
from tokenreel.pipeline.defaults import EMBEDDINGS


@dataclass(frozen=True, eq=False)
class Trained:
    """What is taken from a trained run.

    Attributes:
        path: its folder.
        sha256: of its embedding file, by which a video that is done is known.
        clips: embeddings of its training clips.
        probe: of the phases of the action; None where it names none.
        action: of the videos, as the run sees them: whose phases are named.
        score_names: tags, classes or numbers of a run that scores whole clips, of the last values
            of its vectors.
        unit: what a row of its embeddings is of.
        stores: names of the stores that it reads.
    """

    path: Path
    sha256: str
    clips: tuple[EmbeddedClip, ...]
    probe: Probe | None = None
    action: str = ""
    score_names: tuple[str, ...] = ()
    unit: str = "frame"
    stores: tuple[str, ...] = (TOKENS,)


def read_trained(run: Path, action: str | None) -> Trained:
    """What a run has learned.

    Args:
        run: its folder.
        action: whose phases are named; None for the only one.

    Raises:
        UsageError: a run that is not finished; an action that it does not know, or several and
            none is named.
    """
    provenance = read_provenance(run)
    stores = tuple(stores_of(provenance)) or (TOKENS,)
    path = run / EMBEDDINGS
    if not path.exists():
        raise UsageError(f"{run} has no {EMBEDDINGS}: type its `fuse train` again to finish it")
    file = read_embeddings(path)
    sha256 = file_sha256(path)
    clips = tuple(clip for clip in file.clips if clip.split == "train")
    of_one = str(provenance.get("config", {}).get("data", {}).get("action") or "")
    if file.unit == "clip":
        if action is not None:
            raise UsageError(f"--action {action}: {run} scores whole clips, and names no phases")
        config = read_config(run, provenance)
        names = system_of(config).score_names(config, provenance)
        return Trained(run, sha256, clips, None, of_one, names, file.unit, stores)
    known = labelled_actions(file.clips)
    if not known:
        if action is not None:
            raise UsageError(f"--action {action}: no training clip of {run} has labelled phases")
        return Trained(run, sha256, clips, None, of_one, unit=file.unit, stores=stores)
    if action is None and len(known) > 1:
        raise UsageError(f"the run knows several actions: name one with --action: {_some(known)}")
    chosen = known[0] if action is None else action
    if chosen not in known:
        raise UsageError(f"--action {chosen}: the run knows the phases of {_some(known)}")
    [probe] = fit_probes(file.clips, actions=[chosen]).values()
    return Trained(run, sha256, clips, probe, chosen, unit=file.unit, stores=stores)


def _some(names: list[str]) -> str:
    listed = [name or "(no name)" for name in names]
    return f"{', '.join(listed[:8])}{', ...' if len(listed) > 8 else ''}"
