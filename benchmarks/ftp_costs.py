"""What FTP adds to its encoder, and what its cache saves: parts, stages, pooled maps, online steps.

    parts    parameters and multiply-adds of each part beside the paper's five figures, which no
             reading meets all (theirs are FLOPs of a view, however counted)
    table7   stage 1 of 16 subsets, one run a prompt in lock-step, over a run of each subset alone
             (wanted at most 1/8 and a tenth of it, 0.1375), and the whole table, stage 2 included,
             over all rows alone; beside it (4 s1 + 16 s2) / (32 s1 + 16 s2), with s1 and s2 of one
             run alone
    pooled   a step of stage 2 on pooled maps over one on whole maps, ViT-B/16 with 8 frames; and
             the accuracy of both on rendered clips, 3 seeds, five clips of an action
    online   a step from the cache over one that runs ViT-B/16 on 8 frames first

Usage: python benchmarks/ftp_costs.py [--quick]
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from harness import (
    Row,
    Timing,
    make_row,
    measure,
    quick_flag,
    write_rows,
)

from tokenreel.cache.embeddings import read_embeddings
from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.costs import costs_of, total
from tokenreel.fuse.systems.ftp.layers import ClipMap
from tokenreel.fuse.systems.ftp.losses import class_targets, info_nce, soft_cross_entropy
from tokenreel.fuse.systems.ftp.model import FtpModel, MapShape
from tokenreel.fuse.train.train import Job, train_together
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.training import make_job

NAME = "ftp_costs"
PAPER = {  # model -> its map, and millions of parameters and GFLOPs of a view that FTP adds
    "K400 B/16, 8 x 224": (MapShape(8, (14, 14), 768), 21, (2200 - 1800) / 12),
    "K400 L/14, 32 x 224": (MapShape(32, (16, 16), 1024), 48, (18400 - 16000) / 6),
    "K400 L/14, 64 x 336": (MapShape(64, (24, 24), 1024), 48, (78700 - 75300) / 6),
    "SSV2 B/16, 16 x 224": (MapShape(16, (14, 14), 768), 20, (1100 - 600) / 3),
    "SSV2 L/14, 32 x 224": (MapShape(32, (16, 16), 1024), 46, (6600 - 5200) / 3),
}
SUBSETS = [tuple(p for n, p in enumerate("ABCD") if number >> n & 1) for number in range(16)]
SEEDS = (0, 1, 2)


def main() -> None:
    """All of it, or a small trial."""
    quick = quick_flag()
    torch.set_num_threads(1)
    write_rows(parts())
    write_rows(table7(quick=quick))
    write_rows([pooled(quick=quick), *accuracy(quick=quick)])
    write_rows([online(quick=quick)])


def parts() -> list[Row]:
    """Parameters and multiply-adds: the share of each part, and the total over the paper's."""
    rows = []
    for model, (shape, millions, gflops) in PAPER.items():
        for reading in ("main", "appendix"):
            costs = costs_of(FtpConfig(stage="classify", reading=reading), shape)
            every = total(costs)
            for part, cost in {**costs, "total": every}.items():
                is_total = part == "total"
                for what, unit, own, whole, printed in (
                    ("parameters", "million", cost.parameters, every.parameters, 1e6 * millions),
                    ("multiply-adds", "G", cost.operations, every.operations, 1e9 * gflops),
                ):
                    size = 1e6 if unit == "million" else 1e9
                    stated = f"the paper's {printed / size:.1f}"
                    rows.append(
                        make_row(
                            NAME,
                            f"{what} of {part}, reading {reading}",
                            Timing((own / size,)),
                            shape=model,
                            baseline=stated if is_total else "the total",
                            ratio=own / (printed if is_total else whole),
                            unit=unit,
                        )
                    )
    return rows


def table7(*, quick: bool) -> list[Row]:
    """Stage 1 of the 16 subsets, and the whole table, together over each row alone."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fuse.systems.ftp.maps import small, write_maps, write_texts

    # As many epochs of stage 1 to one of stage 2 as in the paper: 800 to 40.
    dim, clips, epochs = (32, 16, (4, 1)) if quick else (192, 64, (40, 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = (*(f"train{i}" for i in range(clips)), "val0", "val1")
        size = {"train": clips, "val": 2, "first_frames": 4, "more_frames": 0}
        maps = write_maps(folder / "maps", **size, dim=dim, grid=(7, 7), blocks=(1,), cls=False)
        texts = str(write_texts(folder / "texts.h5", clips=ids, prompts=tuple("ABCD")))
        optims = [small().align.optim.with_(epochs=number) for number in epochs]
        align = small().align.with_(optim=optims[0], batch_clips=clips)
        shared = {"data": small().data.with_(num_frames=4, batch_clips=16), "head_channels": 32}
        first = small(texts=texts, stage="align", align=align, **shared)
        last = small(stage="classify", optim=optims[1], **shared)
        numbers = count()
        seconds: dict[str, float] = {}

        def train(configs: Sequence[FtpConfig], what: str) -> list[str]:
            jobs = [Job(config, maps, folder / f"{next(numbers)}") for config in configs]
            start = time.perf_counter()
            results = train_together(jobs, device="cpu", progress=False)
            seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start
            assert not [r.error for r in results if r.error is not None]
            return [str(result.path) for result in results]

        train([first.with_(prompts=("A",))], "imports")
        one = train([first.with_(prompts=("A",))], "s1")
        train([last.with_(prompts=("A",), processors=tuple(one))], "s2")
        runs = dict(
            zip(
                "ABCD",
                train([first.with_(prompts=(prompt,)) for prompt in "ABCD"], "stage 1"),
                strict=True,
            )
        )
        rows = [
            last.with_(prompts=subset, processors=tuple(runs[p] for p in subset))
            for subset in SUBSETS
        ]
        train(rows, "stage 2")
        for subset, row in zip(SUBSETS, rows, strict=True):
            own = train([first.with_(prompts=subset)], "stage 1 alone") if subset else []
            train([row.with_(processors=tuple(own))], "stage 2 alone")
    s1, s2 = seconds["s1"], seconds["s2"]
    together = seconds["stage 1"] + seconds["stage 2"]
    alone = seconds["stage 1 alone"] + seconds["stage 2 alone"]
    cases = {
        "stage 1 of 16 subsets: a run a prompt in lock-step / a run a subset": (
            seconds["stage 1"],
            seconds["stage 1 alone"],
        ),
        "all of 16 rows, both stages: in lock-step / each alone": (together, alone),
        "(4 s1 + 16 s2) / (32 s1 + 16 s2), of a run of one prompt alone": (
            4 * s1 + 16 * s2,
            32 * s1 + 16 * s2,
        ),
    }
    return [
        make_row(
            NAME,
            case,
            Timing((ours,)),
            shape=f"{clips} maps of 4x7x7x{dim}, {epochs[0]} and {epochs[1]} epochs",
            baseline="32 s1 + 16 s2" if "s1" in case else "each alone",
            ratio=ours / theirs,
        )
        for case, (ours, theirs) in cases.items()
    ]


def make_map(shape: MapShape, clips: int) -> torch.Tensor:
    """Maps of random tokens, (B, T, N, D)."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(clips, shape.frames, shape.places, shape.dim, generator=rng)


def class_step(config: FtpConfig, shape: MapShape, clips: ClipMap) -> Callable[[], None]:
    """A step of stage 2 on maps in memory, to be called."""
    model = FtpModel(config, shape, [str(n) for n in range(51)]).train()
    model.processors.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    number = len(clips.spatial)
    targets = class_targets(torch.arange(number) % 51, 51, 0.1)

    def step() -> None:
        optimiser.zero_grad()
        soft_cross_entropy(model(clips), targets).backward()
        optimiser.step()

    return step


def pooled(*, quick: bool) -> Row:
    """A step of 2 clips, in memory: the blocks on T + N tokens over those on T x N."""
    shape = MapShape(4, (4, 4), 64) if quick else MapShape(8, (14, 14), 768)
    clips = ClipMap.of(make_map(shape, 2), shape.grid)
    config = FtpConfig(stage="classify", head_channels=64)
    times = measure(
        {
            "full": class_step(config, shape, clips),
            "pooled": class_step(config.with_(map="pooled"), shape, clips),
        },
        repeats=2 if quick else 5,
    )
    return make_row(
        NAME,
        "a step of stage 2: pooled maps / whole maps",
        times["pooled"],
        shape=f"2 clips of {shape.frames}x{shape.grid[0]}x{shape.grid[1]}x{shape.dim}",
        baseline="whole maps",
        ratio=times["pooled"].median / times["full"].median,
    )


def accuracy(*, quick: bool) -> list[Row]:
    """Clips of a rendered test that are right, of both forms; stage 2 without aligned texts."""
    words = ["processors_aligned=false", "stage=classify", "pool=mean"]
    words += ["optim.epochs=2", "optim.warmup_epochs=0"] if quick else []
    sizes = (32, 16, 32) if quick else (320, 16, 160)
    data = [f"data.{k}={n}" for k, n in zip(("train", "val", "test"), sizes, strict=True)]
    maps = ("frames=uniform:8", "backbone=test_vit", "weights=random:0", "blocks=5")
    maps = (*maps, "image_size=64", "transform=stretch", "codec=fp16")
    shares: dict[str, list[float]] = {"full": [], "pooled": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, out = folder / "videos", folder / "maps"
        report, store = extract_dataset("captioned", [*maps, *data], root=root, out=out)
        report.require_reached()
        for form, found in shares.items():
            jobs = [
                make_job(
                    "captioned-unaligned",
                    [*words, f"map={form}", f"seed={seed}", f"data.seed={seed}"],
                    store=store,
                    out=folder / f"{form}-{seed}",
                )
                for seed in SEEDS
            ]
            for result in train_together(jobs, device="cpu", progress=False):
                if result.error is not None:
                    raise result.error
                found.append(_right(result.embeddings))
    return [
        make_row(
            NAME,
            f"share of clips that stage 2 has right: {form} maps, {len(found)} seeds",
            Timing(tuple(found)),
            shape=f"{sizes[2]} rendered clips, chance 0.0625",
            baseline="full maps, of the means",
            ratio=float(np.mean(found) / np.mean(shares["full"])),
            unit="of the clips",
        )
        for form, found in shares.items()
    ]


def _right(path: Path) -> float:
    """The share of the test clips whose action has the highest score."""
    file = read_embeddings(path)
    tested = [clip for clip in file.clips if clip.split == "test"]
    said = [file.class_names[int(np.argmax(clip.embeddings[0]))] for clip in tested]
    return float(np.mean([name == clip.action for name, clip in zip(said, tested, strict=True)]))


def online(*, quick: bool) -> Row:
    """A step of stage 1 with the encoder in front of it, over one from maps in memory."""
    import timm

    name, size = ("test_vit", 64) if quick else ("vit_base_patch16_224", 224)
    encoder = timm.create_model(name, img_size=size, pretrained=False).eval()
    grid = (size // 16, size // 16)
    shape = MapShape(8, grid, encoder.embed_dim)
    frames = torch.rand(2 * 8, 3, size, size)
    config = FtpConfig(stage="align", text_channels=384)
    model = FtpModel(config, shape)
    optimiser = torch.optim.AdamW(model.parameters())
    texts = torch.randn(2, 384)
    whole = make_map(shape, 2)

    def align(tokens: torch.Tensor) -> None:
        clips = ClipMap.of(tokens, grid)
        optimiser.zero_grad()
        losses = [
            info_nce(model.aligned(clips, p), texts, model.alignments[p].log_scale)
            for p in config.prompts
        ]
        torch.stack(losses).sum().backward()
        optimiser.step()

    def with_encoder() -> None:
        with torch.no_grad():
            tokens = encoder.forward_features(frames)[:, encoder.num_prefix_tokens :]
        align(tokens.unflatten(0, (2, 8)))

    stored = whole.half()
    times = measure(
        {"cached": lambda: align(stored.float()), "online": with_encoder},
        repeats=2 if quick else 5,
    )
    return make_row(
        NAME,
        "a step of stage 1: with the encoder, from pictures / from the cache",
        times["online"],
        shape=f"2 clips of 8 frames, {name} at {size}",
        baseline="maps of float16 in memory",
        ratio=times["online"].median / times["cached"].median,
    )


if __name__ == "__main__":
    main()
