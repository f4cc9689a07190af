"""`extract plan` as one call: headers, a short measurement, and the break-even of caching.

The break-even compares two ways to feed the same training step: reading cached tokens from the
disk, and decoding the frames and running the frozen backbone in every epoch.  The step itself
costs the same in both and is left out.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest, first_clips
from tokenreel.extract.config import ExtractConfig
from tokenreel.pipeline.defaults import STORES
from tokenreel.pipeline.phases.extraction import check_limit, read_words
from tokenreel.pipeline.recipes import RECIPES, get_recipe
from tokenreel.pipeline.text import format_table

if TYPE_CHECKING:  # torch: imported once every word is known to be right
    from tokenreel.extract.preview.plan import HeaderSurvey, MachineRates, StoreSize

CODECS = ("fp16", "int8", "int4", "pool2+int8", "pool2+int4")


@dataclass(frozen=True)
class BreakEven:
    """One way to train, cached against online.

    Attributes:
        recipes: names of the recipes that read this many frames.
        epoch_frames: frames of an epoch, both views.
        cached_seconds, online_seconds: to feed an epoch.
        epochs: after how many epochs the extraction has paid for itself; None for never.
    """

    recipes: tuple[str, ...]
    epoch_frames: int
    cached_seconds: float
    online_seconds: float
    epochs: float | None


@dataclass(frozen=True)
class Plan:
    """The report of `extract plan`.

    Attributes:
        dataset: its name.
        config: of the extraction.
        survey: what the headers say.
        rates: of this machine.
        sizes: of the store with each codec, the chosen one first.
        even: break-even of the recipes of this data set.
        free_bytes: free space where the store would be.
        unreadable: files and folders of the data set that could not be read, with the reason.
        num_over_limit: clips left out by a limit.
    """

    dataset: str
    config: ExtractConfig
    survey: "HeaderSurvey"
    rates: "MachineRates"
    sizes: "tuple[StoreSize, ...]"
    even: tuple[BreakEven, ...]
    free_bytes: int
    unreadable: tuple[str, ...] = ()
    num_over_limit: int = 0

    @property
    def views(self) -> int:
        """Views of a frame."""
        return self.config.num_views

    @property
    def backbone_hours(self) -> float:
        """Hours of one device for the backbone alone."""
        return self.survey.num_frames * self.views / self.rates.backbone_frames / 3600

    @property
    def numeric(self) -> str:
        """How the backbone computes here."""
        is_compiled = self.config.compile_backbone and self.rates.device.startswith("cuda")
        return self.config.numeric + (", compiled" if is_compiled else "")

    @property
    def limit(self) -> str:
        """Which stage the extraction will wait for, and its hours."""
        seconds = self.rates.stage_seconds(
            self.config, views=self.views, decoded_per_frame=self.survey.decoded_per_frame
        )
        hours = {s: self.survey.num_frames * value / 3600 for s, value in seconds.items()}
        hours["disk"] = self.sizes[0].num_bytes / self.rates.write_bytes / 3600
        slowest = max(hours, key=lambda stage: hours[stage])
        parts = ", ".join(f"{stage} {value:.2f} h" for stage, value in hours.items())
        return f"{slowest} ({parts}; they overlap)"

    def text(self) -> str:
        """The plan for people."""
        survey, rates = self.survey, self.rates
        lines = [
            f"{self.dataset}: {len(survey.clip_frames)} clips, {survey.num_frames} frames, "
            f"{survey.num_seconds / 3600:.2f} h of video (from headers; nothing was decoded)"
            + (f"; {self.num_over_limit} clips left out by --limit" if self.num_over_limit else ""),
            f"videos: {survey.video_bytes / 1e9:.2f} GB; unreadable: {len(survey.unreadable)}",
            *(f"  {clip}: {reason}" for clip, reason in survey.unreadable[:10]),
            *(f"cannot be read: {reason}" for reason in self.unreadable),
            "",
            f"measured on this machine: backbone {rates.backbone_frames:.1f} frames/s on "
            f"{rates.device} ({self.numeric}), decoding {rates.decode_frames:.0f} frames/s "
            f"a process, disk {rates.write_bytes / 1e9:.2f} GB/s written, "
            f"{rates.read_bytes / 1e9:.2f} GB/s read",
            f"backbone: {self.backbone_hours:.2f} hours of one {rates.device} "
            f"for {self.views} view(s); slowest stage: {self.limit}",
            "",
            self._sizes_table(),
            *self._losses(),
            f"free where the store would be: {self.free_bytes / 1e9:.1f} GB"
            + ("" if self.sizes[0].num_bytes < self.free_bytes else "  NOT ENOUGH"),
            "",
            self._even_table(),
        ]
        return "\n".join(lines)

    def _sizes_table(self) -> str:
        rows = []
        for size in self.sizes:
            needed = size.frame_bytes * self.rates.backbone_frames / self.views
            verdict = "yes" if needed <= self.rates.write_bytes else "no: the disk is the limit"
            rows.append(
                [
                    size.codec,
                    round(size.frame_bytes),
                    round(size.num_bytes / len(self.survey.clip_frames)),
                    f"{size.num_bytes / 1e9:.2f}",
                    size.num_files,
                    f"{needed / 1e9:.3f}",
                    verdict,
                ]
            )
        header = [
            "codec",
            "bytes/frame",
            "bytes/clip",
            "GB",
            "files",
            "disk GB/s needed",
            "disk keeps up",
        ]
        return format_table(header, rows)

    def _losses(self) -> list[str]:
        """A sentence where a frame is read from the disk more slowly than it is computed anew."""
        online = max(self.rates.stage_seconds(self.config, views=1).values())
        reading = {
            size.codec: size.frame_bytes / self.views / self.rates.read_bytes for size in self.sizes
        }
        losing = [codec for codec, seconds in reading.items() if seconds > online]
        if not losing:
            return []
        winning = [codec for codec in reading if codec not in losing]
        shown = ", ".join(f"{codec} {reading[codec] * 1e3:.2f} ms" for codec in losing)
        advice = f"take {', '.join(winning)}" if winning else "train online, or from a faster disk"
        return [
            f"caching loses: a frame is computed anew in {online * 1e3:.2f} ms, and read from this "
            f"disk in: {shown}; {advice}, or keep the store in memory"
        ]

    def _even_table(self) -> str:
        if not self.even:
            return f"break-even: no recipe reads {self.dataset}; name one with --recipe"
        rows = [
            [
                row.recipes[0] + (f" and {len(row.recipes) - 1} more" if row.recipes[1:] else ""),
                row.epoch_frames,
                f"{row.cached_seconds:.1f}",
                f"{row.online_seconds:.1f}",
                "never: caching loses here" if row.epochs is None else f"{row.epochs:.1f}",
            ]
            for row in self.even
        ]
        header = ["recipe", "frames/epoch", "cached s/epoch", "online s/epoch", "pays after epochs"]
        return format_table(header, rows)


def plan_dataset(
    dataset: str,
    words: Sequence[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    recipe: str | None = None,
    seconds: float = 30.0,
    limit: int | None = None,
) -> Plan:
    """Plan an extraction.

    Args:
        dataset: name of the data set.
        words: as for `extract run`.
        root: folder of the videos; data/<dataset> when None.
        out: where the store would be.
        recipe: break-even of this recipe; None for every recipe of the data set.
        seconds: length of the measurement.
        limit: only the first clips of each split.

    Raises:
        UsageError: an unknown data set, recipe or key; or no clip whose header can be read.
    """
    if recipe is not None:
        get_recipe(recipe)
    check_limit(limit)
    whole, config = read_words(dataset, words, root=root)
    manifest = replace(whole, clips=tuple(first_clips(whole.clips, limit)))
    from tokenreel.extract.flow.devices import pick_device
    from tokenreel.extract.preview.plan import (
        measure_machine,
        picture_bytes,
        planned_identity,
        store_size,
        survey_headers,
    )

    device, plan_recipe = pick_device(config.device), planned_identity(config)
    survey = survey_headers(manifest, config)
    if not survey.clip_frames:
        raise UsageError(f"{dataset}: not one header below {manifest.root} could be read")
    place = (out or STORES).absolute()
    folder = next(folder for folder in [place, *place.parents] if folder.is_dir())
    rates = measure_machine(manifest, config, folder, device=device, seconds=seconds)
    names = [config.codec, *(name for name in CODECS if name != config.codec)]
    counts = list(survey.clip_frames.values())
    each = 0.0
    if config.pixels is not None:
        names = names[:1]
        each = picture_bytes(manifest, config, seconds=seconds / 3)
    sizes = tuple(store_size(plan_recipe, name, counts, picture_bytes=each) for name in names)
    even = break_even(manifest, config, survey, rates, sizes[0], recipe=recipe)
    return Plan(
        dataset,
        config,
        survey,
        rates,
        sizes,
        even,
        shutil.disk_usage(folder).free,
        whole.unreadable,
        len(whole.clips) - len(manifest.clips),
    )


def break_even(
    manifest: Manifest,
    config: ExtractConfig,
    survey: "HeaderSurvey",
    rates: "MachineRates",
    size: "StoreSize",
    *,
    recipe: str | None = None,
) -> tuple[BreakEven, ...]:
    """After how many epochs each recipe's extraction has paid for itself.

    Recipes that read equally many frames are one row.
    """
    clips = sum(c.split == "train" and c.clip_id in survey.clip_frames for c in manifest.clips)
    by_frames: dict[int, list[str]] = {}
    for name in RECIPES if recipe is None else [recipe]:
        chosen = RECIPES[name]()
        if recipe is not None or chosen.dataset == manifest.dataset:
            frames = clips * chosen.fuse.units_per_clip
            by_frames.setdefault(frames, []).append(name)
    frame_seconds = max(rates.stage_seconds(config, views=1).values())
    stages = rates.stage_seconds(
        config, views=config.num_views, decoded_per_frame=survey.decoded_per_frame
    )
    extraction = max(survey.num_frames * max(stages.values()), size.num_bytes / rates.write_bytes)
    rows = []
    for frames, names in sorted(by_frames.items()):
        # of a store with several views a step reads one view for each of its two
        cached = frames * size.frame_bytes / config.num_views / rates.read_bytes
        online = frames * frame_seconds
        gain = online - cached
        rows.append(
            BreakEven(tuple(names), frames, cached, online, extraction / gain if gain > 0 else None)
        )
    return tuple(rows)
