"""The model of FTP: processors, their alignment with texts, integration, blocks and classifier.

Each processor, its alignment and its integration have weights that depend on the run's seed and the
name of their prompt alone, so that they are the same whatever other prompts a run has.

Shapes: B clips, T frames, N places of a frame, D channels of a token, E channels of a text, K
classes.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.fuse.systems.ftp.config import AlignConfig, FtpConfig
from tokenreel.fuse.systems.ftp.layers import (
    Block,
    ClassHead,
    ClipMap,
    ConvBlock,
    Integration,
    KernelIntegration,
    Processor,
    SumIntegration,
    average_2x2,
    convolve_frames,
)


@dataclass(frozen=True)
class MapShape:
    """The sizes of a clip map.

    Attributes:
        frames: T.
        grid: h and w.
        dim: D.
    """

    frames: int
    grid: tuple[int, int]
    dim: int

    @property
    def places(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


class Alignment(nn.Module):
    """What stage 1 alone has of a prompt: a temperature and a projection.

    Attributes:
        project: "visual" takes vectors of clips to the texts, "text" those of texts to the clips.
        log_scale: the logarithm of one over the temperature.
    """

    def __init__(self, config: AlignConfig, dim: int, channels: int) -> None:
        super().__init__()
        self.project, self.text = config.project, config.text
        sizes = (dim, channels) if config.project == "visual" else (channels, dim)
        self.projection = nn.Linear(*sizes)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    def visual(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """The vector of a clip, (B, E'), or those of the rows of v_i, (B, T + N, E')."""
        rows = torch.cat([spatial, temporal], dim=1)
        vector = rows if self.text == "tokens" else rows.mean(dim=1)
        return self.projection(vector) if self.project == "visual" else vector

    def texts(self, vectors: Tensor) -> Tensor:
        """The vectors of texts, (B, E) or (B, T + N, E), in the space where they are compared."""
        return self.projection(vectors) if self.project == "text" else vectors


class FtpModel(nn.Module):
    """FTP, or the part of it that its stage needs.

    Args:
        config: of the run.
        shape: of its clip maps.
        class_names: of the classes; () where it learns none.
    """

    def __init__(self, config: FtpConfig, shape: MapShape, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.config, self.shape, self.class_names = config, shape, tuple(class_names)
        self.texts_sha256 = ""  # of the texts that it has seen
        dim = shape.dim
        self.processors = nn.ModuleDict()
        self.alignments = nn.ModuleDict()
        self.integrations = nn.ModuleDict()
        for prompt in config.prompts:
            with seeded(config.seed, prompt, "processor"):
                self.processors[prompt] = Processor(dim, config.projections)
            if config.stage != "classify":
                channels = config.text_channels
                assert channels is not None, "texts are read before a model of stage 1 is built"
                with seeded(config.seed, prompt, "alignment"):
                    self.alignments[prompt] = Alignment(config.align, dim, channels)
            if config.stage != "align":
                with seeded(config.seed, prompt, "integration"):
                    self.integrations[prompt] = _integration(config, shape)
        self.conv: nn.Conv2d | None = None
        self.blocks = nn.ModuleList()
        self.head: ClassHead | None = None
        if config.stage == "align":
            return
        if config.conv_after_sum:
            with seeded(config.seed, "", "conv"):
                self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        with seeded(config.seed, "", "blocks"):
            kind = Block if config.reading == "main" else ConvBlock
            self.blocks.extend(kind(dim, config.head_channels) for _ in range(config.blocks))
        with seeded(config.seed, "", "head"):
            self.head = ClassHead(dim, config.head_width, len(class_names))

    def processed(
        self, clips: ClipMap, prompt: str, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """s_i and t_i of a prompt.

        Args:
            clips: the maps.
            prompt: which processor.
            keep: (B, T + N, D) what its dropout multiplies v_i by; None without any.
        """
        spatial, temporal = self.processors[prompt](clips.spatial, clips.temporal)
        if keep is None:
            return spatial, temporal
        frames = spatial.shape[1]
        return spatial * keep[:, :frames], temporal * keep[:, frames:]

    def aligned(self, clips: ClipMap, prompt: str, keep: Tensor | None = None) -> Tensor:
        """The vector of each clip that is compared with its text."""
        alignment = self.alignments[prompt]
        assert isinstance(alignment, Alignment)
        return alignment.visual(*self.processed(clips, prompt, keep))

    def features(self, clips: ClipMap) -> Tensor:
        """What the last layer of the classifier sees, (B, D) or (B, head_width)."""
        assert self.head is not None
        x = self._joined(clips)
        frames, grid = self.shape.frames, clips.grid
        if self.conv is not None:
            x = convolve_frames(self.conv, x, frames, grid)
        for block in self.blocks:
            x = block(x, frames, grid)
        if self.config.reading == "appendix":
            x = average_2x2(x, frames, grid)
        return self.head.features(x.mean(dim=1))

    def forward(self, clips: ClipMap) -> Tensor:
        """Scores of the classes before any softmax, (B, K)."""
        assert self.head is not None
        scores: Tensor = self.head.last(self.features(clips))
        return scores

    def _joined(self, clips: ClipMap) -> Tensor:
        """f, the map with the outputs of the processors added: (B, T N, D), or (B, T + N, D)."""
        if self.config.map == "full":
            assert clips.whole is not None
            total = clips.whole
            for prompt, integration in self.integrations.items():
                total = total + integration(*self.processed(clips, prompt), clips.grid)
            return total.flatten(1, 2)
        spatial, temporal = clips.spatial, clips.temporal
        for prompt, integration in self.integrations.items():
            assert isinstance(integration, SumIntegration)
            more = integration.pooled(*self.processed(clips, prompt), clips.grid)
            spatial, temporal = spatial + more[0], temporal + more[1]
        return torch.cat([spatial, temporal], dim=1)

    def trained_parts(self, stage: str) -> list[nn.Module]:
        """The parts that a stage trains: processors and alignments, or all else."""
        if stage == "align":
            return [self.processors, self.alignments]
        rest: list[nn.Module | None] = [self.integrations, self.conv, self.blocks, self.head]
        return [part for part in rest if part is not None]


def _integration(config: FtpConfig, shape: MapShape) -> Integration:
    if config.reading == "main":
        return SumIntegration(shape.dim)
    return KernelIntegration(shape.dim, shape.frames, shape.places)


def words_seed(*words: object) -> int:
    """A seed of 63 bits from numbers and words."""
    numbers = [w if isinstance(w, int) else zlib.crc32(str(w).encode()) for w in words]
    high, low = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return (int(high) << 32 | int(low)) >> 1


@contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Random numbers of torch on the CPU that depend on some words alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(words_seed(*words))
        yield


def dropout_mask(
    shape: tuple[int, int, int], own: slice, share: float, seed: int, device: torch.device
) -> Tensor | None:
    """What the dropout of a processor multiplies its output by: the clips of this process.

    Args:
        shape: of the output for the whole batch, (B, T + N, D).
        own: which clips this process has.
        share: of values that are left out.
        seed: of the prompt and step.
        device: of the output.
    """
    if not share:
        return None
    generator = torch.Generator(device).manual_seed(seed)
    kept = torch.rand(shape, generator=generator, device=device) >= share
    return kept[own] / (1 - share)


def own_weights(
    state: Mapping[str, Tensor], prompts: Sequence[str], names: Sequence[str]
) -> dict[str, Tensor]:
    """Of some weights, those of the named parts; of parts of a prompt, those of some prompts."""
    found = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part not in names:
            continue
        is_of_prompt = part in ("processors", "alignments", "integrations")
        if not is_of_prompt or rest.partition(".")[0] in prompts:
            found[name] = value
    return found
