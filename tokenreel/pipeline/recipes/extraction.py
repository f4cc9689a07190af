"""Default extraction of each data set.

The blocks are the papers' (MV-Former, section 4.4, as the released configurations count them,
from 0).  Their backbone computes in bfloat16 on every machine, so that a store begun on one GPU is
continued on another or on a CPU: `numeric` is part of a store's identity, and `numeric=float32`
creates a separate store.  The tokens are within 0.03 of those in float32 (root mean square of the
difference over that of the tokens about their channels' means: cache.canary).  On a GPU the blocks
are compiled, which is not part of the identity, and is checked to stay within the same bound.

`sample` needs no network: its backbone is small and has fixed random weights, which the store's
name, the log and every table say.  It is DeiT's, the tiny ViT that takes images normalised as DINO
does.
"""

from functools import partial

from tokenreel.extract.config import ExtractConfig
from tokenreel.pipeline.defaults import SAMPLE

_papers = partial(ExtractConfig, numeric="bfloat16", compile_backbone=True)

EXTRACTIONS: dict[str, ExtractConfig] = {
    "finegym": _papers(blocks=(9, 10, 11), transform="mvformer-eval", fps=25.0),
    "penn_action": _papers(blocks=(3, 7, 11), transform="mvformer-eval"),
    "pouring": _papers(blocks=(11,), transform="mvformer-eval"),
    "kinetics400": _papers(blocks=(3, 7, 11)),
    "sample": ExtractConfig(
        backbone="deit_tiny_patch16_224", weights="random:0", image_size=112, blocks=(3, 7, 11)
    ),
}


def extraction_for(dataset: str) -> ExtractConfig:
    """The extraction of a data set; the defaults of ExtractConfig where it has none."""
    return EXTRACTIONS.get("sample" if dataset == SAMPLE else dataset, ExtractConfig())
