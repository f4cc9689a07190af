"""What FTP adds to its encoder, and what its cache saves: parts, stages, pooled maps, online steps.

    parts    parameters and multiply-adds of each part, beside the paper's five figures
    table7   one stage 1 a prompt for 16 subsets, against a stage 1 for each subset
    pooled   a step of stage 2 on pooled maps against whole ones
    online   a step from the cache against one that runs ViT-B/16 on 8 frames first

Usage: python benchmarks/ftp_costs.py [--quick]
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.costs import costs_of, total
from tokenreel.fuse.systems.ftp.layers import ClipMap
from tokenreel.fuse.systems.ftp.losses import class_targets, info_nce, soft_cross_entropy
from tokenreel.fuse.systems.ftp.model import FtpModel, MapShape

PAPER = {  # model -> its map, and millions of parameters and GFLOPs of a view that FTP adds
    "K400 B/16, 8 x 224": (MapShape(8, (14, 14), 768), 21, (2200 - 1800) / 12),
    "K400 L/14, 32 x 224": (MapShape(32, (16, 16), 1024), 48, (18400 - 16000) / 6),
    "K400 L/14, 64 x 336": (MapShape(64, (24, 24), 1024), 48, (78700 - 75300) / 6),
    "SSV2 B/16, 16 x 224": (MapShape(16, (14, 14), 768), 20, (1100 - 600) / 3),
    "SSV2 L/14, 32 x 224": (MapShape(32, (16, 16), 1024), 46, (6600 - 5200) / 3),
}
SUBSETS = [[p for n, p in enumerate("ABCD") if number >> n & 1] for number in range(16)]


def main() -> None:
    """All of it, or a small trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, two repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(1 if quick else torch.get_num_threads())
    parts()
    repeats = 2 if quick else 5
    shape = MapShape(4, (4, 4), 64) if quick else MapShape(8, (14, 14), 768)
    table7(repeats, quick=quick)
    pooled(shape, repeats)
    online(repeats, quick=quick)


def parts() -> None:
    """The cost of each part beside the paper's."""
    print("part, model, reading, million parameters, G multiply-adds of a view")
    for model, (shape, millions, gflops) in PAPER.items():
        for reading in ("main", "appendix"):
            costs = costs_of(FtpConfig(stage="classify", reading=reading), shape)
            for part, cost in {**costs, "total": total(costs)}.items():
                numbers = f"{cost.parameters / 1e6:.2f}, {cost.operations / 1e9:.2f}"
                print(f"{part}, {model}, {reading}, {numbers}")
        print(f"paper, {model}, -, {millions}, {gflops:.1f} (GFLOPs, whatever they count)")


def timed(step, repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    step()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def make_map(shape: MapShape, clips: int) -> torch.Tensor:
    """Maps of random tokens, (B, T, N, D)."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(clips, shape.frames, shape.places, shape.dim, generator=rng)


def class_step(config: FtpConfig, shape: MapShape, clips: ClipMap):
    """A step of stage 2 on maps in memory, to be called."""
    model = FtpModel(config, shape, [str(n) for n in range(51)]).train()
    for part in (model.processors,):
        part.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    count = len(clips.spatial)
    targets = class_targets(torch.arange(count) % 51, 51, 0.1)

    def step() -> None:
        optimiser.zero_grad()
        soft_cross_entropy(model(clips), targets).backward()
        optimiser.step()

    return step


def pooled(shape: MapShape, repeats: int) -> None:
    """A step of 8 clips, in memory: the blocks on T x N tokens, and on T + N."""
    clips = ClipMap.of(make_map(shape, 8), shape.grid)
    config = FtpConfig(stage="classify", head_channels=min(64, shape.dim))
    full = timed(class_step(config, shape, clips), repeats)
    means = timed(class_step(config.with_(map="pooled"), shape, clips), repeats)
    print(
        f"stage 2, a step of 8 clips: full {full:.3f} s, pooled {means:.3f} s, {full / means:.1f} x"
    )


def online(repeats: int, *, quick: bool) -> None:
    """A step of stage 1 from maps in memory, and with the encoder in front of it."""
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
        with torch.inference_mode():
            tokens = encoder.forward_features(frames)[:, encoder.num_prefix_tokens :]
        align(nn.Parameter(tokens.unflatten(0, (2, 8)).clone(), requires_grad=False))

    cached, slow = timed(lambda: align(whole), repeats), timed(with_encoder, repeats)
    print(
        f"stage 1, a step of 2 clips of 8 frames, {name}: from memory {cached:.3f} s, with the "
        f"encoder {slow:.3f} s, {slow / cached:.1f} x"
    )


def table7(repeats: int, *, quick: bool) -> None:
    """Stage 1 of the 16 subsets: each prompt once, against every subset's own, and the whole."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fuse.systems.ftp.maps import small, write_maps, write_texts
    from tokenreel.fuse.train.train import Job, train_together

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = 16 if quick else 64
        names = (*(f"train{i}" for i in range(clips)), "val0", "val1")
        maps = write_maps(folder / "maps", train=clips, val=2, first_frames=4, more_frames=0)
        texts = str(write_texts(folder / "texts.h5", clips=names, prompts=tuple("ABCD")))
        epochs = 2 if quick else 20
        optim = small().align.optim.with_(epochs=epochs)
        align = small().align.with_(optim=optim)
        base = small(texts=texts, stage="align", align=align)
        number = 0

        def train(configs) -> float:
            nonlocal number
            number += 1
            jobs = [Job(c, maps, folder / f"{number}-{n}") for n, c in enumerate(configs)]
            start = time.perf_counter()
            results = train_together(jobs, device="cpu", progress=False)
            assert not [r.error for r in results if r.error is not None]
            return time.perf_counter() - start

        once = [base.with_(prompts=(prompt,)) for prompt in "ABCD"]
        each = [base.with_(prompts=(prompt,)) for subset in SUBSETS for prompt in subset]
        train(once[:1])  # imports
        shared = statistics.median(train(once) for _ in range(repeats))
        alone = statistics.median(
            sum(train([config]) for config in each) for _ in range(max(1, repeats // 2))
        )
        last = [
            small(stage="classify", prompts=tuple(s), processors_aligned=False, optim=optim)
            for s in SUBSETS
        ]
        sixteen = statistics.median(train(last) for _ in range(repeats))
        s1, s2 = float(np.mean([shared / 4])), sixteen / 16
        print(
            f"stage 1 of 16 subsets: shared {shared:.2f} s, alone {alone:.2f} s, "
            f"{shared / alone:.3f} (wanted at most 1/8 and a tenth of it: {1.1 / 8:.3f})"
        )
        print(
            f"the whole table: (4 s1 + 16 s2) / (32 s1 + 16 s2) = "
            f"{(4 * s1 + 16 * s2) / (32 * s1 + 16 * s2):.2f} with s1 {s1:.3f}, s2 {s2:.3f} s"
        )


if __name__ == "__main__":
    main()
