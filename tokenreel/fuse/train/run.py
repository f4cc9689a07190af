"""One run in training: its model, optimiser and position; a step at a time on batches it is given.

Nothing in a step depends on who else is given the same batch, so runs that share a stream end with
the bytes of runs trained alone.
"""

import json
import logging
import math
import time
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.files import write_whole
from tokenreel.fuse.config.system import OptimConfig, SystemConfig
from tokenreel.fuse.data.batches import Batch
from tokenreel.fuse.data.epoch_plan import Sampling
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.distributed.global_layers import share_layers
from tokenreel.fuse.distributed.precision import precision_of
from tokenreel.fuse.distributed.world import (
    ALONE,
    World,
    from_first,
    share_weights,
    sum_gradients,
    together,
)
from tokenreel.fuse.losses.checks import NotFinite
from tokenreel.fuse.runs.checkpoint import (
    load_checkpoint,
    require_config,
    restore_weights,
    save_checkpoint,
)
from tokenreel.fuse.systems.base import Stage, sampling_of, shapes_of, system_of

log = logging.getLogger(__name__)


def learning_rate(config: OptimConfig, epoch: int) -> float:
    """The rate of an epoch, from 0: linear warm-up, then a cosine that would end one epoch later.

    The released code of CARL and MV-Former gives the cosine one epoch more than it trains.

    >>> config = OptimConfig(lr=1.0, epochs=4, warmup_epochs=2)
    >>> [round(learning_rate(config, epoch), 3) for epoch in range(4)]
    [0.5, 1.0, 1.0, 0.75]
    """
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + 1) / config.warmup_epochs
    rest = config.epochs - config.warmup_epochs + 1
    return config.lr * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / rest)) / 2


def make_optimiser(config: OptimConfig, parameters: list[Any]) -> torch.optim.Optimizer:
    """Adam or AdamW, in which each parameter is read and written once a step.

    Args:
        config: of the stage.
        parameters: parameters, or groups of them; a group may have its own settings, and its `lr`
            keeps its ratio to that of the config under the schedule.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.name](
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


class Run:
    """A run between its first and its last step.

    Args:
        config: of the run.
        source: where its batches come from; tells the sizes of the model and the device.
        out: folder of the run; resumes from its checkpoint where there is one.
        world: the processes that share each batch.

    Attributes:
        position: epoch and step of the batch that it wants next.
    """

    def __init__(
        self, config: SystemConfig, source: TokenSource, out: Path, *, world: World = ALONE
    ) -> None:
        self.config, self.out, self.world = config, out, world
        self.device = source.device
        self.position = (0, 0)
        self.system = system_of(config)
        self.stages = self.system.stages(config)
        self._ends = list(accumulate(stage.config.optim.epochs for stage in self.stages))
        state = self._saved_state()
        with together(world):
            self.model = self.system.build(config, shapes_of(source, config))
            if state is None:
                self.system.begin(self.model, config)
            if config.init is not None:
                self.system.initialise(self.model, config)
            self.model.to(self.device)
        if world.size > 1:
            share_layers(self.model)
        share_weights(self.model, world)
        self._losses: list[float] = []
        self._held_out: list[tuple[float, int]] = []
        self._saved_at = time.monotonic()
        self._curves: SummaryWriter | None = None
        self._resume(state)
        if config.first_runs and not self.num_epochs:
            self.save()  # the weights of another run as they are: no step writes them
        counts = [p.numel() for p in self.model.parameters() if p.requires_grad]
        log.info("%s: %s trained parameters", out.name, f"{sum(counts):,}")
        if config.optim.compile:
            self.system.compile(self.model)

    @property
    def num_epochs(self) -> int:
        """Epochs of all stages together."""
        return self._ends[-1]

    @property
    def stage_number(self) -> int:
        """Which stage the position is in; the last where the run is over."""
        return min(bisect_right(self._ends, self.position[0]), len(self.stages) - 1)

    @property
    def stage(self) -> Stage:
        """The stage of the position."""
        return self.stages[self.stage_number]

    @property
    def sampling(self) -> Sampling:
        """What decides its batches in this stage."""
        return sampling_of(self.stage.config)

    @property
    def is_over(self) -> bool:
        """Whether every epoch is done."""
        return self.position[0] >= self.num_epochs

    def wants_held_out(self, epoch: int) -> bool:
        """Whether an epoch ends with a loss on the held-out clips."""
        every = self.stage.config.optim.evaluate_epochs
        return bool(every) and (epoch + 1) % every == 0

    def step(self, batch: Batch) -> float:
        """Take one step; returns the loss.

        Raises:
            TokenReelError: a loss or gradient that is not finite; the clips of the batch.
        """
        self.backward(batch)
        return self.descend(batch)

    def backward(self, batch: Batch, shared: Any = None) -> None:
        """The first half of a step: the gradients; those of `shared`, where given, are left.

        Raises:
            TokenReelError: embeddings that are not finite; the clips of the batch.
        """
        epoch, number = self.position
        self.model.train()
        for group, share in zip(self.optimiser.param_groups, self._rate_shares, strict=True):
            group["lr"] = self._learning_rate(epoch) * share
        torch.manual_seed(_step_seed(self.config.seed, epoch, number))
        rng = np.random.default_rng([self.config.seed, epoch, number])
        try:
            loss = self.system.loss(
                self.model, batch, self.stage.config, rng=rng, world=self.world, shared=shared
            )
        except NotFinite as error:
            raise self._not_finite("loss", f"undefined ({error})", batch) from error
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._loss = loss.detach()

    def descend(self, batch: Batch) -> float:
        """The second half of a step: down the gradients; returns the loss.

        Raises:
            TokenReelError: a loss or gradient that is not finite; the clips of the batch.
        """
        (epoch, number), loss = self.position, self._loss
        sum_gradients(self.model, self.world)
        self.scaler.unscale_(self.optimiser)  # of the sums: all processes see what overflowed
        norm = self.system.clip(self.model, self.stage.config)
        # One wait for a GPU (a scaler has its own), before it is given more to do.
        found, found_norm = torch.stack([loss, norm]).tolist()
        # A scaler lowers its scale where a gradient overflows float16, and leaves the step out;
        # one that overflows without a scale is not finite in itself.
        is_left_out = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not (math.isfinite(found) and (is_left_out or math.isfinite(found_norm))):
            raise self._not_finite("loss", f"{found}, its gradient {found_norm}", batch)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self._losses.append(found)
        self.position = (epoch, number + 1)
        return self._losses[-1]

    def observe(self, batch: Batch) -> None:
        """Count a held-out batch into the loss of the epoch that ends.

        Raises:
            TokenReelError: a loss that is not finite; the clips of the batch.
        """
        self.model.eval()
        with torch.inference_mode():
            rng = np.random.default_rng(self.config.seed)
            try:
                loss = self.system.loss(
                    self.model, batch, self.stage.config, rng=rng, world=self.world
                )
            except NotFinite as error:
                raise self._not_finite("held-out loss", f"undefined ({error})", batch) from error
        if not torch.isfinite(loss):
            raise self._not_finite("held-out loss", f"{loss.item()}", batch)
        self._held_out.append((loss.item(), int(batch.valid.sum())))

    def end_epoch(self) -> float:
        """Close the epoch: its line in the metrics; returns its mean loss."""
        epoch = self.position[0]
        mean = sum(self._losses) / len(self._losses)
        line: dict[str, Any] = {"epoch": epoch, "loss": mean, "lr": self._learning_rate(epoch)}
        if len(self.stages) > 1:
            line["stage"] = self.stage.name
        if self._held_out:
            frames = sum(count for _, count in self._held_out)
            line["held_out_loss"] = sum(x * n for x, n in self._held_out) / max(1, frames)
        self._log(line)
        self._losses, self._held_out = [], []
        former = self.stage_number
        self.position = (epoch + 1, 0)
        if self.stage_number != former:
            self._begin_stage()
        return mean

    def save(self) -> None:
        """Write the checkpoint of this moment."""
        self._saved_at = time.monotonic()
        if not self.world.is_first:
            return
        state = {
            "config": self.config.model_dump_json(),
            "position": list(self.position),
            "losses": list(self._losses),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(self.out / "checkpoint.pt", state)

    def save_if_due(self, *, ends_epoch: bool) -> None:
        """Write a checkpoint where the config wants one: by epochs, by minutes, and at the end."""
        optim = self.stage.config.optim
        by_epoch = ends_epoch and (self.is_over or self.position[0] % optim.checkpoint_epochs == 0)
        if by_epoch or time.monotonic() - self._saved_at >= optim.checkpoint_minutes * 60:
            self.save()

    def close(self) -> None:
        """Flush the curves."""
        if self._curves is not None:
            self._curves.close()

    def _not_finite(self, what: str, found: str, batch: Batch) -> TokenReelError:
        return TokenReelError(
            f"{self.out.name}: the {what} of epoch {self.position[0]} is {found}, on clips "
            f"{', '.join(batch.clip_ids)}: look at them with `tokenreel store verify --deep "
            "STORE`, or lower optim.lr"
        )

    def _begin_stage(self) -> None:
        """A new optimiser over what the stage trains."""
        config = self.stage.config
        parameters = self.system.parameters(self.model, config)
        self.optimiser = make_optimiser(config.optim, parameters)
        self._rate_shares = [group["lr"] / config.optim.lr for group in self.optimiser.param_groups]
        is_half = precision_of(config.optim.precision, self.device) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_half)

    def _learning_rate(self, epoch: int) -> float:
        number = self.stage_number
        start = self._ends[number - 1] if number else 0
        return learning_rate(self.stage.config.optim, epoch - start)

    def _saved_state(self) -> dict[str, Any] | None:
        """The checkpoint that the first process finds; None before there is one.

        Another node may see the disk of some seconds ago, or none.
        """
        path, state = self.out / "checkpoint.pt", None
        with together(self.world):
            if self.world.is_first and path.exists():
                state = load_checkpoint(path)
        return from_first(state, self.world)

    def _resume(self, state: dict[str, Any] | None) -> None:
        path, metrics = self.out / "checkpoint.pt", self.out / "metrics.jsonl"
        if state is None:
            if self.world.is_first:
                metrics.unlink(missing_ok=True)
            self._begin_stage()
            return
        restore_weights(path, self.model, self.config, state)
        require_config(path, self.config, state)
        epoch, number = state["position"]
        self.position, self._losses = (epoch, number), list(state["losses"])
        self._begin_stage()
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.world.is_first:
            kept = metrics.read_text().splitlines()[:epoch] if metrics.exists() else []
            write_whole(metrics, "".join(f"{line}\n" for line in kept).encode())
        log.info("%s resumes at epoch %d, step %d", self.out, epoch, number)

    def _log(self, line: dict[str, Any]) -> None:
        if not self.world.is_first:
            return
        if self._curves is None:
            self._curves = SummaryWriter(str(self.out / "tensorboard"), purge_step=line["epoch"])
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name in line.keys() - {"epoch", "stage"}:
            self._curves.add_scalar(name, line[name], line["epoch"])


def _step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of the dropout of a step: what a resumed run needs no random state for."""
    words = np.random.SeedSequence([seed, epoch, step]).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])
