"""`store verify --repair`: damaged clips are taken out and extracted again, only those."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.manifest import Manifest
from tokenreel.cache.tools.maintenance import mend_logs, remove_damaged
from tokenreel.cache.tools.verify import VerifyReport
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.defaults import DATA
from tokenreel.pipeline.phases.extraction import config_of, configure_extraction, data_options

__all__ = ["repair_store"]


def repair_store(
    store: Path,
    report: VerifyReport,
    words: Sequence[str] = (),
    *,
    root: Path | None = None,
    progress: bool = True,
) -> ExtractReport | None:
    """Extract the damaged clips of a store again, as its recipe and its data set say.

    Nothing is removed before it is known that the clips can be made again.

    Args:
        store: the store.
        report: of verify_store.
        words: `key=value` where the store does not tell: weights=FILE, data.key=value, device.
        root: folder of the videos; data/<dataset> when None.
        progress: show a bar.

    Returns:
        What the extraction did; None when no clip had to be made again.

    Raises:
        UsageError: the store was not made by an extraction, or videos are not where they were.
        WrongIdentity: the words do not describe the extraction that made the store.
    """
    mend_logs(store)
    if not report.repair:
        return None
    recipe, attributes = load_identity(store)
    made_with = attributes["made_with"]
    maker = made_with.get("made_by", "extract")
    if maker != "extract":
        raise UsageError(
            f"{store} was made by `store {maker}`, not by an extraction: remove the damaged clips "
            f"({', '.join(report.repair[:3])}) and run `store {maker}` again"
        )
    options, rest = data_options(words)
    config = configure_extraction(config_of(recipe, made_with), rest)
    from tokenreel.extract.flow.runner import build_identity, extract_clips

    recipe.before_calibration.require(build_identity(config), path=store)
    dataset = str(made_with["dataset"])
    manifest = load_dataset(dataset, root or DATA / dataset, options)
    part = _only(manifest, report.repair)
    remove_damaged(store, report)
    return extract_clips(part, config, store, progress=progress, retries=True)


def _only(manifest: Manifest, clips: Sequence[str]) -> Manifest:
    """The part of a manifest that is of these clips, its videos there."""
    chosen = tuple(clip for clip in manifest.clips if clip.clip_id in clips)
    missing = sorted(set(clips) - {clip.clip_id for clip in chosen})
    if missing:
        raise UsageError(
            f"{manifest.dataset} in {manifest.root} has no clip {missing[0]!r}"
            f" ({len(missing)} in all): give the --root and data.key=value of the extraction"
        )
    for clip in chosen:
        if not (manifest.root / clip.video).exists():
            raise UsageError(f"{clip.clip_id}: {manifest.root / clip.video} is not there: --root?")
    return dataclasses.replace(manifest, clips=chosen)
