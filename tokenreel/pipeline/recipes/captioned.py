"""Recipes of `tokenreel demo ftp`: FTP of two blocks on rendered, captioned clips.

Every row of stage 2 has the same clips of each action, epochs, optimiser and head.  The paper's
epochs and rates are for hundreds of thousands of clips.
"""

from collections.abc import Callable, Sequence

from tokenreel.fuse.config import config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import Recipe

WORDS = (
    "data.num_frames=8",
    "data.batch_clips=16",
    "data.clips_per_action=5",
    "optim.lr=1e-3",
    "optim.epochs=20",
    "optim.warmup_epochs=2",
    "head_channels=16",
    "pool=max",
    "align.project=text",
    "align.batch_clips=96",
    "align.optim.lr=3e-3",
    "align.optim.epochs=30",
    "align.optim.warmup_epochs=2",
)


def _recipe(
    summary: str, label: str, words: Sequence[str], *, is_aligned: bool = False
) -> Callable[[], Recipe]:
    def make() -> Recipe:
        default = config_class("ftp").model_validate({})
        return Recipe(
            dataset="captioned",
            fuse=apply_overrides(default, [*WORDS, *words], root="fuse"),
            evaluate={"protocol": "pairs"}
            if is_aligned
            else {"protocol": "actions", "split": "test"},
            label=label,
        )

    make.__doc__ = summary
    return make


ALIGN, SHUFFLED = "captioned-align", "captioned-align-shuffled"
ALIGNED, UNALIGNED = "captioned-aligned", "captioned-unaligned"
AFTER_SHUFFLED = "captioned-aligned-shuffled"
CAPTIONED: dict[str, Callable[[], Recipe]] = {
    ALIGN: _recipe(
        "Stage 1: four processors learn the captions of their prompts.",
        "stage 1",
        ["stage=align"],
        is_aligned=True,
    ),
    SHUFFLED: _recipe(
        "Stage 1 on the captions of other clips: a control.",
        "stage 1, shuffled captions",
        ["stage=align"],
        is_aligned=True,
    ),
    ALIGNED: _recipe(
        "Stage 2 on aligned processors, with five clips of each action.",
        "aligned processors",
        ["stage=classify"],
    ),
    AFTER_SHUFFLED: _recipe(
        "Stage 2 on processors that learned the captions of other clips.",
        "processors of shuffled captions",
        ["stage=classify"],
    ),
    UNALIGNED: _recipe(
        "Stage 2 on processors as they begin.",
        "unaligned processors",
        ["stage=classify", "processors_aligned=false"],
    ),
    "captioned-group1": _recipe(
        "FTP's blocks and head without processors.",
        "no processors",
        ["stage=classify", "prompts=[]"],
    ),
    "captioned-encoder": _recipe(
        "The encoder alone: a linear layer on the mean of its tokens.",
        "encoder, own head",
        ["stage=classify", "prompts=[]", "blocks=0"],
    ),
}
