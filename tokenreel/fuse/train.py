"""Train a fusion model on a store, then embed every clip.

A run is a folder:

    run.json         config, store, provenance: what the run is
    checkpoint.pt    weights, optimiser, random state, epochs done; written whole
    metrics.jsonl    one line an epoch
    tensorboard/     the same, as curves
    embeddings.h5    written last: a run that has it is done

A run that was killed goes on from its last checkpoint and ends with the same bytes.
"""

import hashlib
import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from tokenreel.cache.errors import TokenReelError, UsageError, WrongRecipe
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.progress import Progress
from tokenreel.cache.reader import ClipRecord, Store, open_store
from tokenreel.cache.recipe import canonical_json, field_differences
from tokenreel.fuse.batches import Batch, TokenSource, batches_of_epoch
from tokenreel.fuse.checkpoint import load_checkpoint, save_checkpoint
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.embed import embed_store
from tokenreel.fuse.losses.scl import sequence_contrastive_loss
from tokenreel.fuse.model import FusionModel, build_model
from tokenreel.fuse.optim import learning_rate, make_optimiser

__all__ = ["RunResult", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder.
        embeddings: its embedding file.
        was_done: whether it had been finished before.
    """

    path: Path
    embeddings: Path
    was_done: bool


def train(
    config: FuseConfig,
    *,
    store: Path,
    out: Path,
    device: str = "auto",
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> RunResult:
    """Train, or go on training, and write the embeddings of every split.

    Args:
        config: the run.
        store: its token store.
        out: folder of the run.
        device: "auto", "cpu" or "cuda".
        progress: show bars.
        provenance: recipe, commit and the like, copied into the embedding file.

    Raises:
        UsageError: a store without training clips or without what the config needs.
        WrongRecipe: the folder holds another run.
        TokenReelError: a loss that is not finite.
    """
    opened = open_store(store)
    about = _describe(config, opened, provenance or {})
    is_done = _claim_folder(out, about)
    result = RunResult(out, out / "embeddings.h5", is_done)
    if is_done:
        log.info("%s is done already", out)
        return result
    source = TokenSource(opened, config, _device(device))
    model = None
    if config.model == "mvformer":
        model = build_model(config, dim=source.dim, cls_dim=source.cls_dim).to(source.device)
        _fit(model, source, config, out, progress=progress)
    embed_store(
        source, model, config, result.embeddings, provenance={"run": out.name, **about},
        progress=progress,
    )  # fmt: skip
    return result


def _describe(config: FuseConfig, store: Store, provenance: dict[str, Any]) -> dict[str, Any]:
    is_trained = config.model == "mvformer" and config.optim.epochs > 0
    return {
        **provenance,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "model": config.model if is_trained or config.model == "frozen" else "untrained",
        "augmentation": "none",
        "store_fingerprint": store.fingerprint,
        "store_clips_sha256": _clips_digest(store),
        "store_name": store.path.name,
        "dataset": store.made_with.get("dataset", ""),
        "weights": store.made_with.get("weights", ""),
        "backbone": store.recipe.architecture,
        "layers": list(config.pooling.blocks or store.recipe.blocks),
    }


def _clips_digest(store: Store) -> str:
    """Which clips the store holds; its fingerprint says how they were made, not which they are."""
    rows = [
        [record.clip_id, record.split, record.action, record.num_frames, record.source["sha256"]]
        for record in store.records.values()
    ]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _claim_folder(out: Path, about: dict[str, Any]) -> bool:
    """Write run.json, or compare it; True where the run is finished."""
    make_directory(out)
    path = out / "run.json"
    if not path.exists():
        write_whole(path, canonical_json(about))
        return False
    former = json.loads(path.read_text())
    identity = ("config", "store_fingerprint", "store_clips_sha256")
    rows = field_differences(
        {key: former.get(key) for key in identity}, {key: about[key] for key in identity}
    )
    if rows:
        table = "\n".join(
            f"  {name}: run has {here!r}, asked {there!r}" for name, here, there in rows
        )
        raise WrongRecipe(f"{out} holds another run:\n{table}\nuse another --out")
    return (out / "embeddings.h5").exists()


def _device(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if word.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {word}: there is no CUDA device here; use cpu or auto")
    return torch.device(word)


def _fit(
    model: FusionModel, source: TokenSource, config: FuseConfig, out: Path, *, progress: bool
) -> None:
    clips = source.store.select(split="train")
    if not clips:
        raise UsageError(
            f"{source.store.path} has no clips of the split train: nothing to train on"
        )
    short = sum(record.num_frames < config.data.num_frames for record in clips)
    if short:
        log.info("%d of %d clips are shorter than %d frames and are padded", short, len(clips),
                 config.data.num_frames)  # fmt: skip
    optimiser = make_optimiser(config.optim, model)
    torch.manual_seed(config.seed)
    done = _resume(out, model, optimiser)
    with _stop_on_sigterm() as stopped, SummaryWriter(str(out / "tensorboard")) as curves:
        bar = Progress(range(done, config.optim.epochs), desc=out.name, unit="epoch",
                       total=config.optim.epochs, initial=done, enabled=progress)  # fmt: skip
        for epoch in bar:
            loss = _run_epoch(model, optimiser, source, clips, config, epoch)
            _log_epoch(out, curves, epoch, loss, learning_rate(config.optim, epoch))
            bar.set_postfix(loss=f"{loss:.4f}")
            is_last = epoch + 1 == config.optim.epochs
            if is_last or stopped or (epoch + 1) % config.optim.checkpoint_epochs == 0:
                save_checkpoint(
                    out / "checkpoint.pt", model=model, optimiser=optimiser, epoch=epoch + 1
                )
            if stopped and not is_last:
                log.warning("told to stop: saved after epoch %d, run it again to go on", epoch + 1)
                raise SystemExit(143)


def _run_epoch(
    model: FusionModel,
    optimiser: torch.optim.Optimizer,
    source: TokenSource,
    clips: list[ClipRecord],
    config: FuseConfig,
    epoch: int,
) -> float:
    model.train()
    rate = learning_rate(config.optim, epoch)
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses = []
    for batch in batches_of_epoch(source, clips, config, epoch):
        loss = _loss(model, batch, config)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TokenReelError(
                f"the loss of epoch {epoch} is {loss.item()}, its gradient {norm.item()}, on clips "
                f"{', '.join(batch.clip_ids)}: look at them with `tokenreel store verify --deep`, "
                "or lower optim.lr"
            )
        optimiser.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _loss(model: FusionModel, batch: Batch, config: FuseConfig) -> torch.Tensor:
    with torch.autocast(batch.gather.device.type, torch.bfloat16, enabled=batch.gather.is_cuda):
        entities = model.pool(batch.tokens, batch.cls, None)
        views = entities[batch.gather.flatten(0, 1)]  # (B V, T, E, C)
        embeddings = model.project(model.fuse(views, batch.valid.flatten(0, 1)))
    return sequence_contrastive_loss(
        embeddings.float().unflatten(0, (-1, 2)),
        batch.steps,
        batch.valid,
        temperature=config.loss.temperature,
        label_variance=config.loss.label_variance,
        label_mode=config.loss.label_mode,
    )


def _resume(out: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load the last checkpoint; returns the number of epochs done."""
    path = out / "checkpoint.pt"
    metrics = out / "metrics.jsonl"
    if not path.exists():
        metrics.unlink(missing_ok=True)
        return 0
    state = load_checkpoint(path)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    done = int(state["epoch"])
    kept = metrics.read_text().splitlines()[:done] if metrics.exists() else []
    write_whole(metrics, "".join(f"{line}\n" for line in kept).encode())
    log.info("%s goes on after epoch %d", out, done)
    return done


def _log_epoch(out: Path, curves: SummaryWriter, epoch: int, loss: float, rate: float) -> None:
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, "loss": loss, "lr": rate}) + "\n")
    curves.add_scalar("loss", loss, epoch)
    curves.add_scalar("lr", rate, epoch)


@contextmanager
def _stop_on_sigterm() -> Iterator[list[bool]]:
    """A list that is no longer empty once SIGTERM came."""
    stopped: list[bool] = []
    try:
        former = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    except ValueError:  # not the main thread: whoever owns the process handles signals
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, former)
