"""How each data set is extracted unless the user says otherwise.

The blocks are the papers' (MV-Former, section 4.4, as the released configurations count them,
from 0).  `sample` needs no network: its backbone is small and has fixed random weights, which the
store's name, the log and every table say.  It is DeiT's, the tiny ViT that takes images normalised
as DINO does.
"""

from tokenreel.extract.config import ExtractConfig

__all__ = ["EXTRACTIONS", "extraction_for"]

EXTRACTIONS: dict[str, ExtractConfig] = {
    "finegym": ExtractConfig(blocks=(9, 10, 11), transform="mvformer-eval", fps=25.0),
    "penn_action": ExtractConfig(blocks=(3, 7, 11), transform="mvformer-eval"),
    "pouring": ExtractConfig(blocks=(11,), transform="mvformer-eval"),
    "kinetics400": ExtractConfig(blocks=(3, 7, 11)),
    "sample": ExtractConfig(
        backbone="deit_tiny_patch16_224", weights="random:0", image_size=112, blocks=(3, 7, 11)
    ),
}


def extraction_for(dataset: str) -> ExtractConfig:
    """The extraction of a data set; the defaults of ExtractConfig where it has none of its own."""
    return EXTRACTIONS.get(dataset, ExtractConfig())
