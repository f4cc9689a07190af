"""The methods that MV-Former and CARL are compared with, each under CARL's encoder.

Published are the numbers of MV-Former's Tables 1, 2, 3 and 5 and CARL's Tables 1 to 4, which come
from the methods' own networks (ResNet-50 with 3D convolutions) and, TCC to GTA, from another
protocol: an RBF SVM at stride 5 (`evaluate all protocol=tcc`).  Here all have the same encoder
and store, so rows can be compared with one another.

TCC* and LAV* are one model for each action of Penn Action; VSP-P knows where phases begin and end,
VSP-F the phases themselves (MV-Former, appendix A).  D3TW and SpeedNet (CARL, Table 3) are not
here: no code of theirs is in reach.
"""

from collections.abc import Callable

from tokenreel.evaluate.tables.printed import Published
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import (
    GYM99,
    GYM288,
    PROTOCOLS,
    SAME_VIEW,
    Recipe,
    changed,
    late_fusion,
    percent,
)
from tokenreel.pipeline.recipes.tables import tables_of

Maker = Callable[[], Recipe]

# Frames of a sequence and clips of a step, as each method's code has them.  Bridges of segments or
# phases need more frames than the 12 of one bridge: those of CARL's setting.
METHODS: dict[str, str] = {
    "sal": "loss.name=sal data.num_frames=40",
    "tcn": "loss.name=tcn data.num_frames=40",
    "tcc": "loss.name=tcc data.num_frames=20 temporal.l2_normalise=false",
    "lav": "loss.name=lav data.num_frames=20",
    "gta": "loss.name=gta data.num_frames=20",
    "vsp": "loss.name=vsp data.num_frames=12 data.batch_clips=128",
    "vsp-5": "loss.name=vsp loss.segments=5",
    "vsp-p": "loss.name=vsp loss.supervision=phase",
    "vsp-f": "loss.name=vsp loss.supervision=frame",
}
# Data set, frames of a sequence unless the method says, `data.action`.
PLACES: dict[str, tuple[str, int, str | None]] = {
    "penn": ("penn_action", 80, None),
    "finegym": ("finegym", 240, GYM99),
    "finegym288": ("finegym", 240, GYM288),
    "pouring": ("pouring", 240, None),
    "kinetics400": ("kinetics400", 80, None),
}
PUBLISHED: dict[tuple[str, str], Published] = {
    ("sal", "penn"): percent(68.15, 0.390, 0.474, 76.04),
    ("tcn", "penn"): percent(68.09, 0.383, 0.542, 77.84, ap10=77.51, ap15=77.28),
    ("tcc", "penn"): percent(74.39, 0.591, 0.641),
    ("lav", "penn"): percent(78.68, 0.625, 0.684),
    ("gta", "penn"): percent(None, 0.789, 0.748),
    ("vsp", "penn"): percent(93.12, 0.923, 0.986, 92.56),
    ("vsp-p", "penn"): percent(93.27, ap5=93.45),
    ("vsp-f", "penn"): percent(94.24, ap5=94.89),
    ("sal", "finegym"): percent(21.45),
    ("tcn", "finegym"): percent(20.02),
    ("tcc", "finegym"): percent(25.18),
    ("gta", "finegym"): percent(27.81),
    ("vsp", "finegym"): percent(43.12),
    ("vsp-p", "finegym"): percent(44.58),
    ("vsp-f", "finegym"): percent(45.66),
    ("sal", "finegym288"): percent(19.58),
    ("tcn", "finegym288"): percent(17.11),
    ("tcc", "finegym288"): percent(20.82),
    ("gta", "finegym288"): percent(24.16),
    ("vsp", "finegym288"): percent(36.95),
    ("sal", "pouring"): percent(ap5=84.05),
    ("tcn", "pouring"): percent(89.53, 0.804, 0.852, 83.56),
    ("tcc", "pouring"): percent(91.53, 0.837, 0.864),
    ("lav", "pouring"): percent(92.84, 0.805, 0.856),
    ("vsp-5", "pouring"): percent(93.85, 0.942, 0.990, 91.85),
}
STARRED: dict[str, Published] = {
    "tcc": percent(81.35, 0.664, 0.701, 76.74, ap10=76.27, ap15=75.88),
    "lav": percent(84.25, 0.661, 0.805, 79.13, ap10=78.98, ap15=78.90),
}
# FineGym's probe learns with a rate of 50 from unit embeddings, and from others as released.
PROBE_RATE = {"learning_rate": 0.1}
ENCODER = f"CARL's encoder in place of the method's own network; {SAME_VIEW}"
NOTES = {  # what else a variant lacks
    "gta-finegym": "; the published number is of FineGym's 101 classes, not these 99",
    "gta-finegym288": "; the published number is of FineGym's 290 classes, not these 288",
    "vsp-5": "; frames of a sequence and clips of a step are CARL's",
    "vsp-p": "; bridges of all phases among the frames drawn, where the released code draws the "
    "frames of one phase on Penn Action",
}


def _baseline(method: str, place: str, published: Published) -> Maker:
    dataset, num_frames, action = PLACES[place]
    source = tables_of(f"{method.removesuffix('-5')}-{place}")
    also = NOTES.get(f"{method}-{place}", NOTES.get("vsp-p" if method == "vsp-f" else method, ""))
    label = {"sal": "SaL", "vsp-5": "VSP"}.get(method, method.upper())

    def make() -> Recipe:
        is_gym = action is not None
        fuse = late_fusion(
            num_frames=num_frames,
            sampling="uniform",
            embed_frames=6000 if is_gym else 1000,
            action=action,
        )
        fuse = apply_overrides(fuse, METHODS[method].split(), root="fuse")
        rate = PROBE_RATE if is_gym and not fuse.temporal.l2_normalise else {}
        return Recipe(
            dataset=dataset,
            fuse=fuse,
            evaluate={**PROTOCOLS[dataset], **rate},
            label=label,
            published=published,
            source=source,
            status="variant",
            differs=ENCODER + also,
        )

    of_classes = f": a store of `extract run finegym data.classes={action[3:]}`" if action else ""
    make.__doc__ = f"{label} on {dataset}{of_classes}."
    return make


def _starred(method: str) -> Maker:
    return changed(
        _baseline(method, "penn", STARRED[method]),
        f"{method.upper()} on penn_action, one model for each of its 13 actions.",
        label=f"{method.upper()}*",
        source=tables_of(f"{method}-star-penn"),
        per_action=True,
    )


VSP_FINETUNED = changed(
    _baseline("vsp", "penn", percent(93.57, 0.944, 0.988)),
    "VSP on Penn Action from the weights of a run on Kinetics-400.",
    label="VSP, K400",
    source="MV-Former, Table 3, fine-tuned",
    begins_from="vsp-kinetics400",
)
BASELINES: dict[str, Maker] = {
    **{
        f"{method.removesuffix('-5')}-{place}": _baseline(method, place, published)
        for (method, place), published in PUBLISHED.items()
    },
    "tcc-star-penn": _starred("tcc"),
    "lav-star-penn": _starred("lav"),
    "vsp-kinetics400": changed(
        _baseline("vsp-5", "kinetics400", {}),
        "VSP pre-trained on Kinetics-400.",
        ["optim.epochs=10"],
        source="MV-Former, Table 3, pre-training",
        unpublished="its numbers are of Penn Action: vsp-penn-transferred",
    ),
    "vsp-penn-transferred": changed(
        VSP_FINETUNED,
        "VSP of Kinetics-400 on Penn Action as it is.",
        ["optim.epochs=0"],
        label="VSP, K400, as it is",
        source="MV-Former, Table 3, not fine-tuned",
        published=percent(92.35, 0.894, 0.952),
    ),
    "vsp-penn-finetuned": VSP_FINETUNED,
}
