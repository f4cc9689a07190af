"""Differentiable dynamic time warping, by anti-diagonals, for a batch of cost tables.

A cell is its cost plus a smooth minimum of the three cells before it.
Shapes: P tables of N rows and M columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tokenreel.fuse.losses.checks import require_floats

FAR = 1e10  # outside the table: finite, so that no gradient is NaN


def soft_minimum(values: Tensor, gamma: float) -> Tensor:
    """-gamma log sum exp(-x / gamma) over the last axis (Cuturi and Blondel, 2017)."""
    return -gamma * torch.logsumexp(-values / gamma, dim=-1)


def expected_minimum(values: Tensor, gamma: float) -> Tensor:
    """The mean over the last axis under softmax(-x / gamma) (Hadji et al., 2021, equation 4)."""
    return ((-values / gamma).softmax(dim=-1) * values).sum(dim=-1)


def path_table(cost: Tensor, minimum: Callable[[Tensor], Tensor]) -> Tensor:
    """Smooth least cost of a path from the first cell to each: (P, N, M) -> (P, N, M).

    Args:
        cost: of each cell; any sign.
        minimum: (P, N, 3) -> (P, N), smooth.

    Raises:
        TypeError: half precision.
        ValueError: NaN or infinity.
    """
    require_floats(cost=cost)
    rows, columns = cost.shape[1:]
    row = torch.arange(rows, device=cost.device)
    column = torch.arange(rows + columns - 1, device=cost.device)[:, None] - row  # of a diagonal
    skewed = cost[:, row, column.clamp(0, columns - 1)]  # (P, diagonals, N); beyond: not used
    outside = cost.new_full((len(cost), 1), FAR)
    before = former = cost.new_full((len(cost), rows), FAR)
    diagonals = []
    for number in range(len(column)):
        corner = torch.zeros_like(outside) if number == 0 else outside
        steps = [
            torch.cat([corner, former[:, :-1]], dim=1),
            torch.cat([outside, before[:, :-1]], dim=1),
            before,
        ]
        here = skewed[:, number] + minimum(torch.stack(steps, dim=-1))
        former, before = before, here
        diagonals.append(here)
    place = row[:, None] + torch.arange(columns, device=cost.device)
    return torch.stack(diagonals, dim=1)[:, place, row[:, None]]


def path_ends(table: Tensor, in_rows: Tensor, in_columns: Tensor) -> Tensor:
    """(P,): the cells (P, N, M) of the last valid row and column, of masks (P, N) and (P, M)."""
    rows, columns = (mask.sum(-1).clamp_min(1) - 1 for mask in (in_rows, in_columns))
    return table[torch.arange(len(table), device=table.device), rows, columns]
