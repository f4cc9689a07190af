"""Parameters and multiply-adds of what FTP adds to its encoder, part by part.

Counted as the paper describes the layers: a map is convolved frame by frame.  The classifier is not
among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.model import MapShape


@dataclass(frozen=True)
class Cost:
    """The cost of a part.

    Attributes:
        parameters: of it.
        operations: multiply-adds of a clip.
    """

    parameters: int
    operations: int


def costs_of(config: FtpConfig, shape: MapShape) -> dict[str, Cost]:
    """The cost of each part: processors, integration, convolution, blocks."""
    frames, places, dim = shape.frames, shape.places, shape.dim
    prompts, rows, tokens = len(config.prompts), frames + places, frames * places
    if config.map == "pooled":
        tokens = rows
    layer = dim * dim + dim
    processors = Cost(prompts * config.projections * layer, prompts * rows * dim * dim)
    if config.reading == "main":
        integration = Cost(
            prompts * (9 * dim + dim + layer), prompts * tokens * (9 * dim + dim * dim)
        )
    else:
        kernel = frames * places
        integration = Cost(
            prompts * (rows * kernel + rows + rows * dim + dim),
            prompts * tokens * (rows * kernel + rows * dim),
        )
    conv = 9 * dim * dim + dim
    attention = 4 * layer
    mixing = tokens * 4 * dim * dim + 2 * tokens * tokens * dim
    if config.reading == "main":
        block = Cost(attention + 8 * dim * dim + 5 * dim, mixing + tokens * 8 * dim * dim)
    else:
        block = Cost(attention + conv, mixing + tokens * 9 * dim * dim)
    block = Cost(block.parameters + 4 * dim, block.operations)  # two norms
    found = {
        "processors": processors,
        "integration": integration,
        "blocks": Cost(config.blocks * block.parameters, config.blocks * block.operations),
    }
    if config.conv_after_sum:
        found["convolution"] = Cost(conv, tokens * 9 * dim * dim)
    return found


def total(costs: Mapping[str, Cost]) -> Cost:
    """Of all parts together."""
    return Cost(
        sum(cost.parameters for cost in costs.values()),
        sum(cost.operations for cost in costs.values()),
    )
