"""FTP's tables (Lu et al., Four-Tiered Prompts) on stores of clip maps.

A row of stage 2 begins from a run of stage 1 for each of its prompts, of the same seed, which
`fuse ablate` trains once for all rows: `texts=FILE` names the texts.  What the paper leaves open is
said in READING and PRESETS, which are in the docstring of each row.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tokenreel.evaluate.tables.printed import Published
from tokenreel.fuse.config import config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import Recipe
from tokenreel.pipeline.recipes.tables import tables_of

Maker = Callable[[], Recipe]

PROMPTS = ("A", "B", "C", "D")
SUBSETS = {  # Table 7 has no group 12
    1: "",
    2: "A",
    3: "B",
    4: "C",
    5: "D",
    6: "AB",
    7: "AC",
    8: "AD",
    9: "BC",
    10: "BD",
    11: "CD",
    13: "ABC",
    14: "ABD",
    15: "ACD",
    16: "BCD",
    17: "ABCD",
}
TESTED = ("ucf101", "hmdb51")  # by lists of test clips, the mean of three
BY_ACTION = ({"protocol": "actions"}, {"protocol": "actions", "split": "test"})
DATASETS = ("kinetics400", "kinetics600", "ssv2", "ucf101", "hmdb51")
ENCODER = (
    "the paper's encoder is UniFormerV2, trained on Kinetics-710, of which no package has weights: "
    "any other is named in the row, its own come by `store import`"
)
READING = """
The paper leaves open, and this run takes: pooling is the mean over the other axis; a vector of a
clip is the mean of the rows of v_i; InfoNCE is of cosines, in both directions, with a temperature
learned from 0.07 and a projection to the texts' channels for each prompt; reading=main adds s_i
and t_i at every frame and place, convolves 3x3 in depth and pointwise, has blocks with a feed-
forward of 4 D and the mean of all places before the classifier; reading=appendix has a kernel (T,
N) over the rows of v_i, a stand-in in how often they are repeated, a 3x3 convolution in place of
the feed-forward, padded by one, and 2x2 means. alpha 0.7 of Table A3 is not explained, and left
out.
"""
PRESETS = """
Stage 1: 800 epochs, lr 1e-5 (Table A2; "40 epochs" in A.2), on the store that is given,
Kinetics-710 in the paper. Stage 2, preset main (4.1): lr 1.5e-6, 512 clips a step, no mixing.
"""
STILL = "frames are those of the store, crops and flips its views, where the paper draws new ones"
VARIANT = f"{ENCODER}; {STILL}"
APPENDIX = (  # preset of stage 2, Table A3: 128 maps a step, two of each clip
    "reading=appendix",
    "head_width=2048",
    "optim.lr=1e-5",
    "data.batch_clips=64",
    "data.views=all",
    "repeats=2",
    "label_smoothing=0.1",
    "mixup=0.8",
)


def _row(
    name: str,
    summary: str,
    *,
    dataset: str,
    prompts: Sequence[str] = PROMPTS,
    words: Sequence[str] = (),
    frames: int = 32,
    published: Published | None = None,
    first_words: Sequence[str] = (),
    **fields: Any,
) -> Maker:
    """A row of stage 2 on the processors of some prompts."""

    def make() -> Recipe:
        default = config_class("ftp").model_validate({})
        listed = f"prompts={','.join(prompts) or '[]'}"
        given = ["stage=classify", listed, f"data.num_frames={frames}", *words]
        return Recipe(
            dataset=dataset,
            fuse=apply_overrides(default, given, root="fuse"),
            evaluate=BY_ACTION[dataset in TESTED],
            published=published or {},
            source=tables_of(name),
            first_runs=()
            if "processors_aligned=false" in words
            else tuple(f"ftp-align-{prompt.lower()}" for prompt in prompts),
            first_words=(f"data.num_frames={frames}", *first_words),
            **{"status": "variant", "differs": VARIANT, **fields},
        )

    make.__doc__ = f"{summary}\n{READING}{PRESETS}"
    return make


def _top(one: float, five: float | None = None) -> Published:
    found: Published = {"top@1": (one, None)}
    return found if five is None else {**found, "top@5": (five, None)}


def _named(prompts: str) -> str:
    return f"prompts {', '.join(prompts)}" if prompts else "no prompts"


def _align(prompt: str) -> Maker:
    def make() -> Recipe:
        default = config_class("ftp").model_validate({})
        words = ["stage=align", f"prompts={prompt}", "data.num_frames=32"]
        return Recipe(
            dataset="kinetics710",
            fuse=apply_overrides(default, words, root="fuse"),
            evaluate={"protocol": "pairs"},
            label=f"stage 1, prompt {prompt}",
            source="FTP, section 3.2 and Table A2",
            status="variant",
            differs=VARIANT,
            unpublished="the paper has no number of stage 1 alone",
        )

    make.__doc__ = (
        f"Stage 1 of prompt {prompt}: its processor learns texts=FILE.\n{READING}{PRESETS}"
    )
    return make


# Table 7: K400, K600, SSV2 (first, five), UCF-101, HMDB51 (first) of each group.
TABLE7 = {
    1: (87.5, 97.6, 89.0, 98.0, 66.7, 91.3, 97.8, 80.5),
    2: (88.6, 98.2, 89.9, 98.2, 69.4, 92.1, 98.2, 83.8),
    3: (89.0, 98.4, 90.5, 98.8, 71.2, 92.8, 98.6, 86.0),
    4: (88.8, 98.2, 89.4, 98.0, 72.0, 93.9, 98.4, 86.8),
    5: (88.5, 98.2, 90.0, 98.2, 71.0, 92.8, 98.2, 85.6),
    6: (91.3, 98.9, 91.7, 99.0, 72.3, 93.9, 99.0, 87.2),
    7: (90.9, 98.9, 91.3, 99.0, 73.3, 94.2, 99.0, 88.3),
    8: (90.2, 98.6, 90.7, 98.8, 71.9, 93.8, 98.9, 86.8),
    9: (92.3, 99.0, 92.7, 99.1, 75.3, 95.2, 99.3, 89.5),
    10: (91.5, 98.9, 91.9, 99.0, 74.7, 94.8, 99.2, 89.1),
    11: (91.9, 98.9, 92.3, 99.1, 75.0, 95.0, 99.2, 89.2),
    13: (92.5, 99.0, 92.9, 99.3, 78.9, 98.5, 99.4, 90.7),
    14: (93.2, 99.3, 93.3, 99.3, 77.8, 97.3, 99.6, 89.7),
    15: (92.9, 99.1, 93.0, 99.3, 78.0, 97.4, 99.5, 90.3),
    16: (92.6, 99.1, 92.9, 99.3, 79.1, 98.6, 99.4, 90.8),
    17: (93.4, 99.3, 93.8, 99.4, 79.8, 98.9, 99.7, 91.5),
}
# Table 5, the same columns; the text swaps MiniGPT-4 and MiniGPT-v2 on SSV2, the table stands.
TABLE5 = {
    "openflamingo": (91.2, 98.9, 91.3, 98.9, 70.2, 91.8, 98.4, 88.5),
    "blip-2": (92.8, 98.9, 91.7, 99.0, 77.1, 95.4, 99.1, 90.7),
    "minigpt-4": (93.1, 99.2, 93.2, 99.1, 73.3, 94.1, 99.1, 89.7),
    "minigpt-v2": (93.3, 99.3, 93.6, 99.2, 73.6, 94.0, 99.6, 91.5),
    "llava": (93.4, 99.3, 93.4, 99.2, 79.6, 98.6, 99.4, 90.3),
    "gpt-4": (93.4, 99.3, 93.8, 99.4, 79.8, 98.9, 99.7, 91.5),
}
# Table 6: encoder, its backbone here, frames; K400, K600, SSV2 (first, five) without and with FTP.
TABLE6 = {
    "vit": (
        "ViT",
        "vit",
        (81.6, 95.1, 83.5, 96.2, 67.5, 91.0),
        (84.8, 95.8, 85.7, 96.5, 68.9, 91.4),
    ),
    "deit3": (
        "DeiT III",
        "deit3",
        (82.7, 95.5, 84.0, 96.5, 69.6, 92.7),
        (85.7, 97.0, 86.2, 97.3, 70.6, 92.0),
    ),
    "videomae": (
        "VideoMAE-L",
        "videomae:large",
        (85.2, 96.8, 86.1, 97.0, 75.4, 95.2),
        (88.3, 97.6, 89.0, 98.2, 77.0, 95.9),
    ),
    "xclip": (
        "X-CLIP-L",
        "xclip:large-patch14",
        (87.7, 97.4, 88.3, 97.7, 72.2, 93.7),
        (89.6, 98.3, 90.1, 98.3, 73.1, 94.5),
    ),
}
FEW_SETS = ("kinetics400", "kinetics600", "ssv2")
# Tables 1, 2, 3 and B4: data set, frames, segments of a test (of which each has three crops; None:
# not printed), label, published, millions of parameters that FTP adds.
MODELS = {
    "ftp-table1-b": ("kinetics400", 8, 4, "FTP-B/16, 8 frames", _top(91.9, 98.9), 21),
    "ftp-table1-l": ("kinetics400", 32, 2, "FTP-L/14, 32 frames", _top(93.4, 99.3), 48),
    "ftp-table1-l336": ("kinetics400", 64, 2, "FTP-L/14, 64 frames of 336", _top(94.3, 99.4), 48),
    "ftp-table2-b": ("ssv2", 16, 1, "FTP-B/16, 16 frames", _top(77.3, 96.7), 20),
    "ftp-table2-l": ("ssv2", 32, 1, "FTP-L/14, 32 frames", _top(79.8, 98.9), 46),
    "ftp-table3-ucf101-b": ("ucf101", 16, None, "FTP-B/16 on UCF-101", _top(98.7), None),
    "ftp-table3-ucf101-l": ("ucf101", 32, None, "FTP-L/14 on UCF-101", _top(99.7), None),
    "ftp-table3-hmdb51-b": ("hmdb51", 16, None, "FTP-B/16 on HMDB51", _top(83.9), None),
    "ftp-table3-hmdb51-l": ("hmdb51", 32, None, "FTP-L/14 on HMDB51", _top(91.5), None),
    "ftp-tableb4-b": ("kinetics600", 8, 4, "FTP-B/16, 8 frames", _top(92.2, 98.9), None),
    "ftp-tableb4-b280": ("kinetics600", 8, 4, "FTP-B/16, 8 frames of 280", _top(93.0, 99.0), None),
    "ftp-tableb4-l": ("kinetics600", 32, 2, "FTP-L/14, 32 frames", _top(93.8, 99.4), None),
    "ftp-tableb4-l336": (
        "kinetics600",
        32,
        2,
        "FTP-L/14, 32 frames of 336",
        _top(94.4, 99.3),
        None,
    ),
}


def _views(dataset: str, frames: int, segments: int | None) -> str:
    """The views of a test, in words."""
    if segments is None:
        return f"the views of a test on {dataset} are not printed: one"
    stored = f"frames=uniform:{segments * frames} crops=3"
    return f"a test averages {segments} x 3 views, as a store of `{stored}` has them"


KEY_FRAMES = {1: 91.9, 3: 92.5, 5: 93.4, 7: 93.2}  # Table C5, on K400
UNIFORMER = "uniformerv2"


def _of(values: Sequence[float], dataset: str) -> Published:
    """The part of a row of a table that is of a data set."""
    place = DATASETS.index(dataset)
    if place < 3:
        return _top(*values[2 * place : 2 * place + 2])
    return _top(values[3 + place])


def _table7() -> dict[str, Maker]:
    rows = {}
    for dataset in DATASETS:
        for group, prompts in SUBSETS.items():
            name = f"ftp-table7-{dataset}-{group}"
            caveat = (
                "it has FTP's blocks, so that it is not the encoder alone" if group == 1 else ""
            )
            rows[name] = _row(
                name,
                f"Stage 2 with {_named(prompts)}, group {group} of Table 7.",
                dataset=dataset,
                prompts=tuple(prompts),
                published=_of(TABLE7[group], dataset),
                label=f"group {group}: {_named(prompts)}",
                backbone=UNIFORMER,
                caveat=caveat,
            )
    return rows


def _table5() -> dict[str, Maker]:
    rows = {}
    for dataset in DATASETS:
        for model, values in TABLE5.items():
            name = f"ftp-table5-{dataset}-{model}"
            rows[name] = _row(
                name,
                f"Texts of {model}: texts/{dataset}-{model}.h5, or texts=FILE.",
                dataset=dataset,
                published=_of(values, dataset),
                first_words=(f"texts=texts/{dataset}-{model}.h5",),
                label=f"texts of {model}",
                backbone=UNIFORMER,
            )
    return rows


def _table6() -> dict[str, Maker]:
    rows = {}
    for dataset in FEW_SETS:
        for key, (label, backbone, without, with_ftp) in TABLE6.items():
            name = f"ftp-table6-{dataset}-{key}"
            rows[f"{name}-alone"] = _row(
                f"{name}-alone",
                f"{label} without FTP: a linear layer on the mean of its tokens.",
                dataset=dataset,
                prompts=(),
                words=["blocks=0"],
                published=_of(without, dataset),
                label=f"{label}, own head",
                backbone=backbone,
                differs=f"the paper fine-tunes all of the encoder, which is frozen here; {STILL}",
            )
            rows[name] = _row(
                name,
                f"{label} with FTP.",
                dataset=dataset,
                published=_of(with_ftp, dataset),
                label=f"{label} + FTP",
                backbone=backbone,
                differs=f"the paper's encoder was fine-tuned on the actions before; {STILL}",
            )
    return rows


def _appendix_c() -> dict[str, Maker]:
    rows = {}
    for count, value in KEY_FRAMES.items():
        name = f"ftp-tablec5-{count}"
        rows[name] = _row(
            name,
            f"Texts of {count} key frames: texts/kinetics400-k{count}.h5, or texts=FILE.",
            dataset="kinetics400",
            published=_top(value),
            first_words=(f"texts=texts/kinetics400-k{count}.h5",),
            label=f"K = {count}",
            backbone=UNIFORMER,
        )
    return rows


FTP: dict[str, Maker] = {
    **{f"ftp-align-{prompt.lower()}": _align(prompt) for prompt in PROMPTS},
    **{
        name: _row(
            name,
            f"{label} on {dataset}; {_views(dataset, frames, segments)}.",
            dataset=dataset,
            words=[f"segments={segments or 1}"],
            frames=frames,
            published=published,
            label=label,
            parameters=millions,
            backbone=UNIFORMER,
        )
        for name, (dataset, frames, segments, label, published, millions) in MODELS.items()
    },
    **_table5(),
    **_table6(),
    **_table7(),
    **_appendix_c(),
    "ftp-encoder": _row(
        "ftp-encoder",
        "The encoder without FTP: a linear layer on the mean of its tokens.",
        dataset="hmdb51",
        prompts=(),
        words=["blocks=0"],
        label="encoder, own head",
        status="control",
        differs="",
    ),
    "ftp-unaligned": _row(
        "ftp-unaligned",
        "Processors as they begin, which have learned no text: a control.",
        dataset="hmdb51",
        words=["processors_aligned=false"],
        label="unaligned processors",
        status="control",
        differs="",
    ),
    "ftp-appendix": _row(
        "ftp-appendix",
        "The reading and the preset of the appendix, with the first layer of 2,048 of B.2.",
        dataset="hmdb51",
        words=APPENDIX,
        label="appendix",
    ),
    "ftp-literal": _row(
        "ftp-literal",
        "Table A1 to the letter: also a 3x3 convolution after the sum.",
        dataset="hmdb51",
        words=[*APPENDIX, "conv_after_sum=true"],
        label="appendix, literal",
    ),
    "ftp-pooled": _row(
        "ftp-pooled",
        "A variant: the blocks see the means over space and over time, as a pooled store has them.",
        dataset="hmdb51",
        words=["map=pooled"],
        label="pooled",
    ),
}
