"""The training loop: one stream of batches, and every run takes its step on each.

Training one run is the case of one.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NoReturn

from tokenreel.cache.errors import INTERRUPTED, TERMINATED, TokenReelError, UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.progress import Progress
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.batches import Batch, Place, make_batch, stream_batches
from tokenreel.fuse.data.epoch_plan import hold_out, plan_epoch
from tokenreel.fuse.data.requirements import training_clips
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.distributed.world import ALONE, World, any_of, in_step, together
from tokenreel.fuse.systems.base import sampling_of
from tokenreel.fuse.train.run import Run

log = logging.getLogger(__name__)

STOP_SIGNALS = (  # USR1 and USR2 are how schedulers announce the end of a job
    *(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2),
)


def fit(
    runs: Sequence[Run],
    source: TokenSource,
    *,
    progress: bool,
    world: World = ALONE,
) -> dict[Run, TokenReelError]:
    """Train runs that draw the same batches, in lock-step, to their ends.

    A run that is further than another waits; one whose loss is not finite leaves, and the others go
    on.  Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 save every run after the step that they come in, and
    end the process, Ctrl-C with 130 and the others with 143.

    Args:
        runs: of one system, and with one Sampling in each stage, those that are over apart.
        source: of their batches.
        progress: show a bar of epochs.
        world: the processes that share each batch.

    Returns:
        The runs that failed, each with its error.

    Raises:
        UsageError: no clip can be held out.
    """
    failed: dict[Run, TokenReelError] = {}
    active = [run for run in runs if not run.is_over]
    if not active:
        return failed
    bar = Progress(
        desc=runs[0].out.name if len(runs) == 1 else f"{len(runs)} runs",
        unit="epoch",
        total=max(run.num_epochs for run in active),
        initial=min(run.position for run in active)[0],
        enabled=progress and world.is_first,
    )
    with bar, _stop_on_signals(world) as stopped:
        while active:
            number = min(run.stage_number for run in active)
            stage = [run for run in active if run.stage_number == number]
            failed |= _fit_stage(stage, source, world, bar, stopped)
            active = [run for run in active if run not in failed and not run.is_over]
    return failed


def _fit_stage(
    runs: Sequence[Run],
    source: TokenSource,
    world: World,
    bar: Progress,
    stopped: list[int],
) -> dict[Run, TokenReelError]:
    """Train runs that are in one stage to its end; those that failed, each with its error."""
    failed: dict[Run, TokenReelError] = {}
    active, number = list(runs), runs[0].stage_number
    sampling = active[0].sampling
    assert all(run.sampling == sampling for run in active)
    with together(world):
        clips, held_out = _training_clips(source, active[0].stage.config)
    start = min(run.position for run in active)
    epochs = max(run.num_epochs for run in active)
    batches = stream_batches(
        source, clips, sampling, start=start, epochs=epochs, rank=world.rank, world=world.size
    )
    with closing(batches):
        for place, batch in in_step(batches, world, source.device):
            failed |= _step(active, place, batch)
            del batch  # its memory is the next one's
            active = [run for run in active if run not in failed]
            if place.ends_epoch:
                failed |= _end_epoch(active, source, held_out, place.epoch, bar)
                active = [run for run in active if run not in failed]
            if active and any_of(bool(stopped), world, source.device):
                _save_and_stop(active, stopped[0] if stopped else signal.SIGTERM)
            for run in active:
                run.save_if_due(ends_epoch=place.ends_epoch)
            active = [run for run in active if not run.is_over and run.stage_number == number]
            if not active:
                break
    return failed


def _step(active: Sequence[Run], place: Place, batch: Batch) -> dict[Run, TokenReelError]:
    """Every run at this position takes its step; those that failed, each with its error."""
    failed: dict[Run, TokenReelError] = {}
    due = [run for run in active if run.position == (place.epoch, place.step)]
    if not due:
        return failed
    with due[0].system.share([run.model for run in due], batch) as shared:
        _each(due, lambda run: run.backward(batch, shared.get(run.model)), failed)
    _each(due, lambda run: run.descend(batch), failed)
    return failed


def _each(
    runs: Sequence[Run], do: Callable[[Run], object], failed: dict[Run, TokenReelError]
) -> None:
    """Do something with every run that has not failed; those that fail in it are added."""
    for run in runs:
        if run not in failed:
            try:
                do(run)
            except TokenReelError as error:
                log.error("%s", error)
                failed[run] = error.with_traceback(None)  # whose frames hold the batch


def _training_clips(
    source: TokenSource, config: SystemConfig
) -> tuple[list[ClipRecord], list[ClipRecord]]:
    share, num_frames = config.data.held_out, config.data.num_frames
    clips, held_out = hold_out(training_clips(config, source.store), share)
    if share and not held_out:
        raise UsageError(
            f"data.held_out={share}: the training clips of {source.store.path} are one group or "
            "video, none can be held out"
        )
    for what, chosen in (("left", clips), ("held-out", held_out)):
        if chosen and not plan_epoch(chosen, sampling_of(config), 0):
            raise UsageError(
                f"data.held_out={share}: {config.why_no_batch(f'{len(chosen)} {what} clips')}"
            )
    short = sum(record.num_frames < num_frames for record in clips)
    if short:
        log.info(
            "%d of %d clips are shorter than %d frames and are padded",
            short,
            len(clips),
            num_frames,
        )
    alone = len(clips) - sum(map(len, plan_epoch(clips, sampling_of(config), 0)))
    if alone > 0:
        log.info("%d of %d clips are in no step: no other is of their action", alone, len(clips))
    return clips, held_out


def _end_epoch(
    active: Sequence[Run],
    source: TokenSource,
    held_out: Sequence[ClipRecord],
    epoch: int,
    bar: Progress,
) -> dict[Run, TokenReelError]:
    """Every run in this epoch closes it; those that failed, each with its error."""
    failed: dict[Run, TokenReelError] = {}
    ending = [run for run in active if run.position[0] == epoch]
    observers = [run for run in ending if run.wants_held_out(epoch)]
    if observers:
        batches = _held_out_batches(source, held_out, observers[0])
        for batch in in_step(batches, observers[0].world, source.device):
            _each(observers, partial(Run.observe, batch=batch), failed)
    losses = [run.end_epoch() for run in ending if run not in failed]
    if losses:
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", refresh=False)
    bar.update()
    return failed


def _held_out_batches(
    source: TokenSource, clips: Sequence[ClipRecord], run: Run
) -> Iterator[Batch]:
    """The same windows of the held-out clips at every epoch, in batches as the loss wants them."""
    world = run.world
    for numbers in plan_epoch(clips, run.sampling, 0):
        yield make_batch(
            source, clips, numbers, run.sampling, 0, rank=world.rank, world=world.size
        ).to(source.device)


class Stopped(SystemExit):
    """The end of a process that a signal asked for, once its runs are saved.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(INTERRUPTED if number == signal.SIGINT else TERMINATED)
        self.signal = number


def _save_and_stop(active: Sequence[Run], number: int) -> NoReturn:
    name = signal.Signals(number).name
    for run in active:
        run.save()
        epoch, step = run.position
        log.warning(
            "received %s: %s saved at epoch %d, step %d; rerun to resume",
            name,
            run.out,
            epoch,
            step,
        )
    raise Stopped(number)


@contextmanager
def _stop_on_signals(world: World) -> Iterator[list[int]]:
    """The signals that came, in order; a second Ctrl-C interrupts at once.

    Several processes wait for the step to end whatever comes: torchrun repeats each signal.
    """
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        if number == signal.SIGINT and number in stopped and world.size == 1:
            raise KeyboardInterrupt
        stopped.append(number)

    former: dict[int, Any] = {}
    try:
        for number in STOP_SIGNALS:
            former[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread: the owner of the process handles signals
        yield stopped
        return
    try:
        yield stopped
    finally:
        for wanted, handler in former.items():
            signal.signal(wanted, handler)
