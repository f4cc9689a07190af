"""A training step on cached scenes: against both frozen CNNs online, and its peak memory.

    python benchmarks/stan_step.py [--quick]

step     seconds of a step of STAN (two streams, 896 channels, 4 layers, 13 scenes) on tokens in
         memory, and of the same step with ResNet-18 and R(2+1)D-18 run on the pictures first, at
         batches of 32 and of 2, the author's.  The claim is 100 at least at 32.
memory   peak memory that a step adds: STAN on tokens, against a transformer of the same width and
         layers over all patches of 16x16 of the same 13 centre frames at 224, batch 1.  The paper
         claims 9 to 16.

Weights are random; one thread.  Memory is that of a process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Timing, make_row, quick_flag, write_rows
from torch import Tensor, nn

from tokenreel.fuse.systems.stan.config import StanConfig
from tokenreel.fuse.systems.stan.model import StanModel, loss_of

SCENES, FRAMES, TAGS, DIM = 13, 12, 19, 512
PATCHES = (224 // 16) ** 2


def main() -> None:
    """Measure steps and memory, and write the rows; with --memory NAME be a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", choices=("stan", "joint"), help="print bytes, measure no time")
    parser.add_argument("--quick", action="store_true", help="small batches, once")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.memory:
        print(added_bytes(words.memory))
        return
    is_quick = quick_flag()
    rows = []
    for batch in (2,) if is_quick else (32, 2):
        cached = seconds_of(cached_step(batch), 2 if is_quick else 10)
        online = seconds_of(online_step(batch), 1)
        rows.append(
            make_row(
                "stan_step",
                f"batch {batch}: seconds with both CNNs online / seconds on tokens",
                cached,
                shape=f"{batch} clips of {SCENES} scenes",
                baseline="both frozen CNNs online",
                ratio=online.median / cached.median,
            )
        )
    found = {name: peak_of(name) for name in ("stan", "joint")}
    rows.append(
        make_row(
            "stan_step",
            "peak memory of a step: joint space-time transformer / tokens of scenes",
            Timing((float(found["stan"]),)),
            shape=f"1 clip of {SCENES} scenes, {SCENES * PATCHES} patches",
            baseline="joint space-time transformer",
            ratio=found["joint"] / max(1, found["stan"]),
            unit="B",
        )
    )
    write_rows(rows)


def step_of(model: nn.Module, forward: Callable[[], Tensor], batch: int) -> Callable[[], None]:
    """A step of AdamW on random tags."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-6)
    targets = (torch.rand(batch, TAGS) < 0.2).float()

    def step() -> None:
        optimiser.zero_grad()
        loss_of(forward(), targets, StanConfig()).backward()
        optimiser.step()

    return step


def make_stan() -> StanModel:
    """STAN of the published width."""
    return StanModel(StanConfig(), dims={"spatial": DIM, "temporal": DIM}, num_classes=TAGS)


def cached_step(batch: int) -> Callable[[], None]:
    """A step on tokens."""
    model, valid = make_stan(), torch.ones(batch, SCENES, dtype=torch.bool)
    tokens = {name: torch.randn(batch, SCENES, DIM) for name in ("spatial", "temporal")}
    return step_of(model, lambda: model(tokens, valid), batch)


def online_step(batch: int) -> Callable[[], None]:
    """The same step, whose tokens two frozen CNNs compute from pictures."""
    from torchvision.models import resnet18
    from torchvision.models.video import r2plus1d_18

    image, video = resnet18().eval(), r2plus1d_18().eval()
    image.fc = video.fc = nn.Identity()
    model, valid = make_stan(), torch.ones(batch, SCENES, dtype=torch.bool)
    frames = torch.rand(SCENES, 3, 224, 224)
    clips = torch.rand(SCENES, 3, FRAMES, 112, 112)

    @torch.inference_mode()
    def tokens(net: nn.Module, seen: Tensor) -> Tensor:
        return torch.stack([net(seen) for _ in range(batch)]).clone()

    def forward() -> Tensor:
        with torch.inference_mode(False):
            seen = {"spatial": tokens(image, frames), "temporal": tokens(video, clips)}
            scores: Tensor = model({name: x.clone() for name, x in seen.items()}, valid)
        return scores

    return step_of(model, forward, batch)


class Joint(nn.Module):
    """A transformer over all patches of all scenes, with the layers and width of one stream."""

    def __init__(self) -> None:
        super().__init__()
        config = StanConfig().encoder
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feed_forward, batch_first=True
        )
        self.enter = nn.Linear(3 * 16 * 16, config.width)
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.leave = nn.Linear(config.width, TAGS)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T x N, 768) -> (B, 1, K)."""
        scores: Tensor = self.leave(self.layers(self.enter(patches)).mean(dim=1, keepdim=True))
        return scores


def added_bytes(name: str) -> int:
    """Peak memory that a step adds in this process, batch 1; the model and its optimiser count."""
    before = peak_bytes()
    if name == "stan":
        cached_step(1)()
    else:
        model, patches = Joint(), torch.randn(1, SCENES * PATCHES, 3 * 16 * 16)
        step_of(model, lambda: model(patches), 1)()
    return peak_bytes() - before


def peak_bytes() -> int:
    """Peak memory of this process so far; that of getrusage may be of the one that started it."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def peak_of(name: str) -> int:
    """The same of a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def seconds_of(step: Callable[[], None], repeats: int) -> Timing:
    """The seconds on the processor of steps after the first."""
    step()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return Timing(tuple(found))


if __name__ == "__main__":
    main()
