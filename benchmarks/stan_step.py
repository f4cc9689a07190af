"""A training step on cached scenes: against both frozen CNNs online, and its peak memory.

    python benchmarks/stan_step.py [--quick]

step     seconds of a step of STAN (two streams, 896 channels, 4 layers, 13 scenes) on tokens in
         memory, and of the same step with ResNet-18 and R(2+1)D-18 run on the pictures first, at
         batches of 32 and of 2, the author's.  The claim is 100 at least at 32.
memory   peak memory of a step at batch 1, against a joint space-time transformer of the same width
         and layers on the same frames: over all patches of 16x16 of the 13 centre frames at 224,
         or over all tubelets of 2x16x16 of the 12 frames of each scene at 112.  Of the whole step,
         with weights, gradients and moments of the optimiser, which are 16 bytes a parameter
         whatever the input; and of what the input adds to them, the activations.  STAN reads
         tokens (frozen CNNs), or trains its ResNet-18 from the centre frames (STAN-Small).  The
         paper claims 9 to 16 and says neither of which model nor of what memory.

Weights are random; one thread.  Memory is that of a process of its own.
"""

import argparse
import json
import os
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
TUBELETS = (112 // 16) ** 2 * FRAMES // 2  # of a scene
SUBJECTS = ("stan", "small", "joint", "joint-all")
COMPARED = (  # of the whole step or of activations, ours, theirs, in words
    ("step", "stan", "joint", "patches of the centre frames / tokens of scenes"),
    ("activations", "stan", "joint", "patches of the centre frames / tokens of scenes"),
    ("activations", "stan", "joint-all", "tubelets of all frames / tokens of scenes"),
    ("activations", "small", "joint", "patches of the centre frames / STAN-Small, CNN trained"),
)


def main() -> None:
    """Measure steps and memory, and write the rows; with --memory NAME be a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", choices=SUBJECTS, help="print bytes, measure no time")
    parser.add_argument("--quick", action="store_true", help="small batches, once")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.memory:
        print(json.dumps(bytes_of(words.memory)))
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
    found = {name: memory_of(name) for name in SUBJECTS}
    for kind, ours, theirs, what in COMPARED:
        rows.append(
            make_row(
                "stan_step",
                f"memory of {'a step' if kind == 'step' else 'activations'}: {what}",
                Timing((float(found[ours][kind]),)),
                shape=f"1 clip of {SCENES} scenes",
                baseline="joint space-time transformer",
                ratio=found[theirs][kind] / max(1, found[ours][kind]),
                unit="B",
            )
        )
    write_rows(rows)


def stepper_of(model: nn.Module, batch: int) -> Callable[[Callable[[], Tensor]], None]:
    """A function that takes a step of AdamW on random tags, with the scores of a forward pass."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-6)
    targets = (torch.rand(batch, TAGS) < 0.2).float()

    def step(forward: Callable[[], Tensor]) -> None:
        optimiser.zero_grad()
        loss_of(forward(), targets, StanConfig()).backward()
        optimiser.step()

    return step


def step_of(model: nn.Module, forward: Callable[[], Tensor], batch: int) -> Callable[[], None]:
    """A step on the scores of one forward pass."""
    step = stepper_of(model, batch)
    return lambda: step(forward)


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


def make_small() -> Callable[[int], None]:
    """Steps of STAN-Small: its ResNet-18 learns too, R(2+1)D-18 gives a token a scene."""
    from torchvision.models import resnet18

    model, image = make_stan(), resnet18()
    image.fc = nn.Identity()
    step = stepper_of(nn.ModuleList([model, image]), 1)

    def run(scenes: int) -> None:
        frames, valid = torch.rand(scenes, 3, 224, 224), torch.ones(1, scenes, dtype=torch.bool)
        temporal = torch.randn(1, scenes, DIM)
        step(lambda: model({"spatial": image(frames)[None], "temporal": temporal}, valid))

    return run


class Joint(nn.Module):
    """A transformer over all patches of all scenes, with the layers and width of one stream.

    Args:
        values: of a patch.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        config = StanConfig().encoder
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feed_forward, batch_first=True
        )
        self.enter = nn.Linear(values, config.width)
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.leave = nn.Linear(config.width, TAGS)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T x N, values) -> (B, 1, K)."""
        scores: Tensor = self.leave(self.layers(self.enter(patches)).mean(dim=1, keepdim=True))
        return scores


def bytes_of(name: str) -> dict[str, int]:
    """Peak memory that a step at batch 1 adds in this process, whole, and of its activations.

    A step on one scene comes first, after which weights, gradients and moments are there.
    """
    before = resident_bytes()
    run = make_runner(name)
    run(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held = resident_bytes()
    run(SCENES)
    peak = peak_bytes()
    return {"step": peak - before, "activations": peak - held}


def make_runner(name: str) -> Callable[[int], None]:
    """A function that takes a step of one model on a number of scenes."""
    if name == "small":
        return make_small()
    if name == "stan":
        model: nn.Module = make_stan()

        def run(scenes: int) -> None:
            valid = torch.ones(1, scenes, dtype=torch.bool)
            tokens = {name: torch.randn(1, scenes, DIM) for name in ("spatial", "temporal")}
            step(lambda: model(tokens, valid))

    else:
        patches = PATCHES if name == "joint" else TUBELETS
        values = (1 if name == "joint" else 2) * 3 * 16 * 16
        model = Joint(values)

        def run(scenes: int) -> None:
            seen = torch.randn(1, scenes * patches, values)
            step(lambda: model(seen))

    step = stepper_of(model, 1)
    return run


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status("VmRSS:")


def peak_bytes() -> int:
    """Peak memory of this process so far; that of getrusage may be of the one that started it."""
    return _status("VmHWM:")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(field)[2].split()[0])


def memory_of(name: str) -> dict[str, int]:
    """The bytes of a subject, of a process of its own that gives large blocks back."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


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
