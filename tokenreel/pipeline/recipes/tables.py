"""The papers' tables: their rows as names of recipes, in order."""

FROZEN_CONTROLS = ("frozen-mean", "frozen-max", "frozen-cls")  # of `evaluate frozen`
CLOCK = "clock"  # of every evaluation
CONTROLS = (*FROZEN_CONTROLS, CLOCK)  # rows that train nothing


_ROWS = {
    "controls": f"sample untrained {' '.join(CONTROLS)}",
    "mvformer-table1": """
        sal-penn tcn-penn carl-penn vsp-penn mvformer-penn sal-finegym tcn-finegym carl-finegym
        vsp-finegym mvformer-finegym sal-finegym288 tcn-finegym288 carl-finegym288 vsp-finegym288
        mvformer-finegym288
    """,
    "mvformer-table2": """
        sal-pouring tcn-pouring carl-pouring vsp-pouring carl-pouring-rerun mvformer-pouring
    """,
    "mvformer-table3": """
        carl-penn carl-penn-transferred carl-penn-finetuned vsp-penn vsp-penn-transferred
        vsp-penn-finetuned mvformer-penn mvformer-penn-transferred mvformer-penn-finetuned
    """,
    "mvformer-table4": " ".join(f"mvformer-table4-{row}" for row in range(1, 16)),
    "mvformer-table5": """
        tcc-star-penn tcc-penn lav-star-penn lav-penn gta-penn sal-penn tcn-penn carl-penn
        vsp-penn vsp-p-penn vsp-f-penn carl-penn-finetuned vsp-penn-finetuned mvformer-penn
        mvformer-penn-finetuned tcc-finegym sal-finegym tcn-finegym carl-finegym vsp-finegym
        vsp-p-finegym vsp-f-finegym mvformer-finegym
    """,
    "carl-table1": """
        tcc-star-penn lav-star-penn tcc-penn lav-penn gta-penn sal-penn tcn-penn carl-penn
    """,
    "carl-table2": "tcn-penn tcc-star-penn lav-star-penn carl-penn",
    "carl-table3": """
        tcn-finegym sal-finegym tcc-finegym gta-finegym carl-finegym tcn-finegym288 sal-finegym288
        tcc-finegym288 gta-finegym288 carl-finegym288
    """,
    "carl-table4": "tcn-pouring tcc-pouring lav-pouring carl-pouring",
    "carl-table5": "carl-table5-resnet carl-table5-c3d carl-penn",
    "carl-table6": "carl-table6-1 carl-table6-2 carl-penn carl-table6-4",
    "carl-table7": "carl-table7-none carl-penn",
    "carl-table8": "carl-table8-tcn carl-table8-tcc carl-penn",
    "carl-table9": """
        carl-table9-variance1 carl-table9-variance25 carl-table9-tau1 carl-table9-tau0.3 carl-penn
    """,
    "carl-table10": """
        carl-table10-alpha1 carl-finegym carl-table10-alpha2 carl-table10-even carl-table10-beta0
        carl-table10-beta50 carl-table10-beta80 carl-table10-beta100
    """,
    "carl-table11": """
        carl-table11-80 carl-table11-160 carl-finegym carl-table11-480 carl-table11-supervised-10
        carl-table11-supervised-50 carl-table11-supervised
    """,
    "carl-table13": "carl-table13-contrastive carl-penn",
    "carl-table14": "carl-penn-transferred carl-penn-finetuned",
    "stan-table1": """
        stan-table1-resnet stan-table1-seresnet stan-table1-gating stan-table1-lstm
        stan-table1-distillation stan-small stan-large
    """,
    "stan-table2": """
        stan-lvu-relationship stan-lvu-way_speaking stan-lvu-scene stan-large-lvu-relationship
        stan-large-lvu-way_speaking stan-large-lvu-scene
    """,
    "stan-table3": "stan-table3-resnet stan-table3-seresnet stan-table3-concat stan-small",
    "stan-table4": """
        stan-table4-spatial-backprop stan-table4-temporal-backprop stan-table4-spatial
        stan-table4-temporal stan-table4-distillation stan-table4-gated stan-table4-small-2000
        stan-small stan-large
    """,
    "stan-frozen": """
        stan-table1-resnet stan-table1-lstm stan-table4-spatial stan-table4-temporal
        stan-distillation-frozen stan-gated-frozen stan-small-2000-frozen stan-small-frozen
    """,
}
# The tables of clip maps, one a data set; the plain name is of the smallest, HMDB51.
_SETS = ("kinetics400", "kinetics600", "ssv2", "ucf101", "hmdb51")
_MODELS = ("openflamingo", "blip-2", "minigpt-4", "minigpt-v2", "llava", "gpt-4")
_ENCODERS = ("vit", "deit3", "videomae", "xclip")
for _name in _SETS:
    _ROWS[f"ftp-table7-{_name}"] = " ".join(
        f"ftp-table7-{_name}-{group}" for group in range(1, 18) if group != 12
    )
    _ROWS[f"ftp-table5-{_name}"] = " ".join(f"ftp-table5-{_name}-{model}" for model in _MODELS)
    if _name in _SETS[:3]:
        _ROWS[f"ftp-table6-{_name}"] = " ".join(
            f"ftp-table6-{_name}-{encoder}-alone ftp-table6-{_name}-{encoder}"
            for encoder in _ENCODERS
        )
_ROWS |= {
    "ftp-table1": "ftp-table1-b ftp-table1-l ftp-table1-l336",
    "ftp-table2": "ftp-table2-b ftp-table2-l",
    "ftp-table3": """
        ftp-table3-ucf101-b ftp-table3-ucf101-l ftp-table3-hmdb51-b ftp-table3-hmdb51-l
    """,
    "ftp-tableb4": "ftp-tableb4-b ftp-tableb4-b280 ftp-tableb4-l ftp-tableb4-l336",
    "ftp-tablec5": "ftp-tablec5-1 ftp-tablec5-3 ftp-tablec5-5 ftp-tablec5-7",
    "ftp-table5": _ROWS["ftp-table5-hmdb51"],
    "ftp-table6": _ROWS["ftp-table6-kinetics400"],
    "ftp-table7": _ROWS["ftp-table7-hmdb51"],
}
_NO_HEAD = "no detection head yet"
WITHOUT_RECIPE = {  # table -> its rows that have no recipe, and why
    "carl-table3": "D3TW and SpeedNet: no code of theirs is in reach",
    "carl-table7": "Block4+5: it trains the backbone, which is frozen here",
    "ftp-table4": f"FTP-B/16 (mAP 43.9) and FTP-L/14 (46.2) on AVA 2.2: {_NO_HEAD}",
    "ftp-table5": f"AVA 2.2 (mAP 41.9, 43.6, 43.2, 43.6, 44.7, 46.2): {_NO_HEAD}",
    "ftp-table6": "ILA (88.7 on Kinetics-400; 91.0 with FTP), MTV-H (89.1; 91.4) and UniFormerV2-L "
    "(89.3; 93.4): no package has their weights; `store import` takes their maps, on which "
    f"ftp-encoder and ftp-table7-kinetics400-17 train; AVA 2.2: {_NO_HEAD}",
    "ftp-table7": f"AVA 2.2 (mAP 39.5 to 46.2): {_NO_HEAD}; the paper has no group 12",
    "stan-table1": "I3D (mAP 0.487): tokens of a backbone of which there is no family; S(TPN) "
    "(0.492): it pools maps of several blocks of a ResNet-34; Fine-Grained Semantic (0.583): sound "
    "and other modalities",
    "stan-table2": "R101-SlowFast+NL (52.4, 35.8, 54.7), VideoBERT (52.8, 37.9, 54.9) and Object "
    "Transformer (53.1, 39.4, 56.9) are quoted by the paper",
    "stan-table3": "Random: the clock of every evaluation, which decides every tag; VGG-Audio "
    "(F1_w 0.454): sound; I3D (0.463) and Fine-Grained Semantic (0.597): see stan-table1",
}
TABLES: dict[str, tuple[str, ...]] = {name: tuple(rows.split()) for name, rows in _ROWS.items()}


def tables_of(name: str) -> str:
    """The tables that a recipe is a row of, in words.

    >>> tables_of("tcc-penn")
    'MV-Former, Table 5; CARL, Table 1'
    >>> tables_of("sal-finegym")
    'MV-Former, Tables 1 and 5; CARL, Table 3'
    """
    papers = {"mvformer": "MV-Former", "carl": "CARL", "stan": "STAN", "ftp": "FTP"}
    found: dict[str, list[str]] = {}
    for table, rows in TABLES.items():
        paper, _, number = table.partition("-table")
        if name in rows and paper in papers:
            numbers = found.setdefault(papers[paper], [])
            short = number.partition("-")[0].upper()  # of one a data set
            numbers += [short] if short not in numbers else []
    parts = []
    for paper, numbers in found.items():
        some = "Table" if len(numbers) == 1 else "Tables"
        listed = " and ".join([part for part in (", ".join(numbers[:-1]), numbers[-1]) if part])
        parts.append(f"{paper}, {some} {listed}")
    return "; ".join(parts)
