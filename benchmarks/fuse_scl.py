"""SCL batched (the other view's block only) against the full matrix, as the released code has it.

    python benchmarks/fuse_scl.py [--quick]

B = 8 clips of T = 240 frames, 64 channels, half of the clips padded.  Bytes that autograd keeps for
the backward pass (the ratio is batched / full, at most 0.25 wanted), seconds of forward and
backward, and the largest difference of loss and gradient, at most 1e-6 wanted.
"""

import torch
from harness import Timing, make_row, measure, quick_flag, write_rows
from torch import Tensor
from torch.nn import functional

from tokenreel.fuse.losses.scl import sequence_contrastive_loss

TEMPERATURE, VARIANCE = 0.1, 10.0


def full_matrix_loss(embeddings: Tensor, steps: Tensor, valid: Tensor) -> Tensor:
    """The loss over all pairs of the batch, (2 B T, 2 B T), negatives `single_noself`.

    Every pair that is not of the two views of one clip weighs 0, one with padding weighs 1e-6.
    """
    clips, views, frames = valid.shape
    flat, mask = embeddings.flatten(0, 2), valid.flatten().float()
    logits = flat @ flat.T / TEMPERATURE
    distance = (steps.flatten()[:, None] - steps.flatten()).abs().float()
    sequence = torch.arange(clips * views).repeat_interleave(frames)
    clip = sequence // views
    other = (clip[:, None] == clip) & (sequence[:, None] != sequence)
    pairs = mask[:, None] * mask
    weight = torch.where(pairs > 0, other.float(), 1e-6)
    label = torch.exp(-(distance**2) / (2 * VARIANCE)) * other * pairs
    total = label.sum(-1, keepdim=True)
    label = label / torch.where(total > 0, total, 1.0)
    predicted = logits.exp()
    predicted = predicted / (predicted * weight).sum(-1, keepdim=True)
    divergence = functional.kl_div((predicted + 1e-6).log(), label, reduction="none")
    return (divergence * pairs * other).sum() / mask.sum()


def batched_loss(embeddings: Tensor, steps: Tensor, valid: Tensor) -> Tensor:
    """Ours."""
    return sequence_contrastive_loss(
        embeddings, steps, valid, temperature=TEMPERATURE, label_variance=VARIANCE
    )


LOSSES = {"full matrix": full_matrix_loss, "batched": batched_loss}


def kept_bytes(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> int:
    """Bytes of the tensors that the backward pass needs, each counted once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = LOSSES[name](*inputs)
    loss.backward()
    return sum(kept.values())


def main() -> None:
    """Measure and write the rows."""
    clips, frames = (4, 40) if quick_flag() else (8, 240)
    torch.manual_seed(0)
    embeddings = functional.normalize(torch.randn(clips, 2, frames, 64), dim=-1).requires_grad_()
    steps = torch.randint(0, 2 * frames, (clips, 2, frames)).sort(-1).values
    valid = torch.ones(clips, 2, frames, dtype=torch.bool)
    valid[::2, :, frames * 3 // 4 :] = False
    inputs = (embeddings, steps, valid)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def both(name: str) -> None:
        embeddings.grad = None
        loss = LOSSES[name](*inputs)
        loss.backward()
        assert embeddings.grad is not None
        found[name] = (loss.detach(), embeddings.grad.clone())

    timings = measure({name: lambda name=name: both(name) for name in LOSSES}, repeats=5)
    kept = {name: kept_bytes(name, inputs) for name in LOSSES}
    shape = f"B={clips} T={frames} C=64"
    rows = []
    for name, timing in timings.items():
        ratio = timing.median / timings["full matrix"].median
        rows.append(
            make_row("fuse_scl", name, timing, shape=shape, baseline="full matrix", ratio=ratio)
        )
        memory = Timing((kept[name] / 1e6,))
        rows.append(
            make_row(
                "fuse_scl",
                f"{name}, kept for backward",
                memory,
                shape=shape,
                unit="MB",
                baseline="full matrix",
                ratio=kept[name] / kept["full matrix"],
            )
        )
    for place, what in enumerate(("loss", "gradient")):
        one, other = (found[name][place] for name in LOSSES)
        worst = float((one - other).abs().max())
        rows.append(
            make_row(
                "fuse_scl",
                f"difference of the {what}",
                Timing((worst,)),
                shape=shape,
                unit="absolute",
                baseline="1e-6",
                ratio=worst / 1e-6,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
