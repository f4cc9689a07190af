"""`ucf101`, `hmdb51`, `ssv2`, `kinetics600` and `kinetics710`: lists as they are published."""

import json

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset

UCF = ["Archery/v_Archery_g01_c01", "Archery/v_Archery_g08_c02", "HandstandPushups/v_H_g08_c01"]
HEADER = "label,youtube_id,time_start,time_end,split\n"


def write(root, files, videos=()):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in videos:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(name, root, **options):
    manifest = load_dataset(name, root, options)
    return [(clip.clip_id, clip.video, clip.split, clip.action) for clip in manifest.clips]


def make_ucf(root, **changes):
    lists = {
        "splits/classInd.txt": "1 Archery\n2 HandstandPushups\n",
        "splits/trainlist01.txt": f"{UCF[1]}.avi 1\n{UCF[2]}.avi 2\r\n",
        "splits/testlist01.txt": f"{UCF[0]}.avi\n",
        "splits/trainlist02.txt": f"{UCF[0]}.avi 1\n",
        "splits/testlist02.txt": f"{UCF[1]}.avi\n",
    }
    lists = {name: text for name, text in (lists | changes).items() if text is not None}
    write(root, lists, [f"videos/{UCF[0]}.avi", f"videos/{UCF[1]}.mp4", "other/v_H_g08_c01.avi"])
    return root


def test_ucf101_has_a_train_and_a_test_list_of_each_split(tmp_path):
    make_ucf(tmp_path)
    assert read("ucf101", tmp_path) == [
        (UCF[0], f"videos/{UCF[0]}.avi", "test", "Archery"),
        (UCF[1], f"videos/{UCF[1]}.mp4", "train", "Archery"),
        (UCF[2], "other/v_H_g08_c01.avi", "train", "HandstandPushups"),
    ]
    assert [clip[2] for clip in read("ucf101", tmp_path, split="2")] == ["train", "test"]
    groups = [clip.group for clip in load_dataset("ucf101", tmp_path, {}).clips]
    assert groups == ["v_Archery_g01", "v_Archery_g08", "v_H_g08"]


def test_ucf101_counts_what_is_missing_by_class_beside_the_published_numbers(tmp_path):
    make_ucf(tmp_path)
    (tmp_path / f"videos/{UCF[1]}.mp4").unlink()
    check = check_dataset("ucf101", tmp_path, {})
    assert check.notes == ("1 of 2 train clips have no video, of 1 classes: Archery (1)",)
    assert check.text().endswith(
        "partial (1 of 9537 train, 1 of 3783 test): what is there can be used"
    )


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({}, {"split": "4"}, r"data\.split is '4' \(known: 1, 2, 3\)"),
        ({}, {"split": "3"}, r"no trainlist03\.txt and testlist03\.txt"),
        ({"splits/trainlist01.txt": "v.avi 1\n"}, {}, r"trainlist01\.txt:1: .* is not `class"),
        ({"splits/testlist01.txt": f"{UCF[1]}.avi\n"}, {}, r"testlist01\.txt:1: .* listed at"),
        ({"splits/trainlist01.txt": f"{UCF[1]}.avi 2\n"}, {}, "Archery is number 2 here and 1"),
        ({"splits/testlist01.txt": "Archry/v.avi\n"}, {}, "'Archry' is no class of classInd"),
        (
            {"splits/testlist01.txt": "Archry/v.avi\n", "splits/classInd.txt": None},
            {},
            r"1 classes of its test list are not in its train list: 'Archry', did you mean Archery",
        ),
        ({"splits/classInd.txt": "Archery 1\n"}, {}, r"classInd\.txt:1: .* is not `number class`"),
    ],
)
def test_a_wrong_list_of_ucf101_is_named(tmp_path, changes, options, reason):
    make_ucf(tmp_path, **changes)
    with pytest.raises(UsageError, match=reason):
        load_dataset("ucf101", tmp_path, options)


def make_hmdb(root, **changes):
    lists = {
        "l/catch_test_split1.txt": "a #1!.avi 1 \nb.avi 2 \nc.avi 0 \n",
        "l/wave_test_split1.txt": "b.avi 1 \n",
        "l/catch_test_split2.txt": "a #1!.avi 2 \nb.avi 0 \nc.avi 1 \n",
        "l/wave_test_split2.txt": "b.avi 1 \n",
    }
    lists = {name: text for name, text in (lists | changes).items() if text is not None}
    write(root, lists, ["catch/a #1!.avi", "catch/b.avi", "catch/c.avi", "wave/b.avi"])
    return root


def test_hmdb51_leaves_out_what_a_split_does_not_use_or_keeps_it_for_another(tmp_path):
    make_hmdb(tmp_path)
    assert read("hmdb51", tmp_path) == [
        ("catch/a #1!", "catch/a #1!.avi", "train", "catch"),
        ("catch/b", "catch/b.avi", "test", "catch"),
        ("wave/b", "wave/b.avi", "train", "wave"),
    ]
    every = read("hmdb51", tmp_path, split="2", unused="val")
    assert [clip[2] for clip in every] == ["test", "val", "train", "train"]
    assert check_dataset("hmdb51", tmp_path, {}).notes == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"l/wave_test_split2.txt": None}, "1 classes have a list of split 1 or of split 2 alone"),
        (
            {"l/wave_test_split1.txt": "b.avi 3\n"},
            r"wave_test_split1\.txt:1: .* 0, 1 or 2",
        ),
        ({"l/wave_test_split1.txt": "b.avi 1\nb.avi 2\n"}, r"split1\.txt:2: b is listed twice"),
        ({"l/wave_test_split1.txt": "b.avi 2\n"}, "'wave'.*: give them the same names"),
    ],
)
def test_a_wrong_list_of_hmdb51_is_named(tmp_path, changes, reason):
    make_hmdb(tmp_path, **changes)
    with pytest.raises(UsageError, match=reason):
        load_dataset("hmdb51", tmp_path, {})


def make_ssv2(root, *, prefix="something-something-v2-", **changes):
    texts = {
        "labels": {"Holding something": "0", "Pushing something so that it falls": "1"},
        "train": [{"id": "7", "label": "holding tea", "template": "Holding [something]"}],
        "validation": [{"id": "8", "template": "Holding [something]"}],
        "test": [{"id": "9"}],
    } | changes
    write(
        root,
        {f"labels/{prefix}{name}.json": json.dumps(value) for name, value in texts.items()},
        ["20bn/7.webm", "20bn/8.mp4", "20bn/9.webm"],
    )
    return root


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_ssv2_names_actions_by_their_template(tmp_path, prefix):
    make_ssv2(tmp_path, prefix=prefix)
    assert read("ssv2", tmp_path) == [
        ("7", "20bn/7.webm", "train", "Holding something"),
        ("8", "20bn/8.mp4", "val", "Holding something"),
        ("9", "20bn/9.webm", "test", ""),
    ]
    write(tmp_path, {"labels/test-answers.csv": "9;Holding something\n"})
    assert read("ssv2", tmp_path)[2][3] == "Holding something"
    text = check_dataset("ssv2", tmp_path, {}).text()
    assert "1 of 168913 train" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"validation": [{"id": "8", "template": "Holdin [something]"}]}, "mean Holding something"),
        ({"validation": [{"template": "x"}]}, "entry 0 has no id"),
        ({"validation": {"id": "8"}}, "not a list of entries"),
        ({"validation": [{"id": "7"}]}, "id 7 is in .*train.json too"),
        ({"labels": []}, "not an object"),
        ({"train": [{"id": 7, "template": 5}]}, "id 7: its template is 5"),
        (
            {"validation": [{"id": "8", "template": "Pushing [something] so that [it] falls"}]},
            "1 classes of its val list are not in its train list: 'Pushing something so that it",
        ),
    ],
)
def test_a_wrong_entry_of_ssv2_is_named(tmp_path, changes, reason):
    make_ssv2(tmp_path, **changes)
    with pytest.raises(UsageError, match=reason):
        load_dataset("ssv2", tmp_path, {})


def test_kinetics600_has_the_lists_of_kinetics400_under_its_own_name(tmp_path):
    stem = "abcdefghij1_000010_000020"
    write(
        tmp_path,
        {
            "kinetics600_val_list_videos.txt": f"riding_a_bike/{stem}.mp4 3\n",
            "kinetics400_val_list_videos.txt": "no list of this one",
        },
        [f"videos_val/riding_a_bike/{stem}.mp4"],
    )
    assert read("kinetics600", tmp_path) == [
        (f"val/{stem}", f"videos_val/riding_a_bike/{stem}.mp4", "val", "riding a bike")
    ]


def test_kinetics_refuses_classes_that_differ_between_its_lists(tmp_path):
    lists = {
        "train.csv": f"{HEADER}riding a bike,abcdefghij1,10,20,train\n",
        "val.csv": f"{HEADER}riding bike,abcdefghij2,10,20,val\n",
    }
    write(tmp_path, lists)
    with pytest.raises(UsageError, match="'riding bike', did you mean riding a bike"):
        load_dataset("kinetics400", tmp_path, {})


def rows(split, *lines):
    return HEADER + "".join(f"{name},{video},10,20,{split}\n" for name, video in lines)


def make_k710(folder, **changes):
    lists = {
        "k400/train.csv": rows("train", ("air drumming", "a"), ("massaging feet", "b")),
        "k400/validate.csv": rows("validate", ("massaging feet", "v4")),
        "k400/test.csv": "youtube_id,time_start,time_end,split\nt4,10,20,test\n",
        "kinetics600_train.csv": rows("train", ("Massaging Feet", "c"), ("air drumming", "t4")),
        "k700/train.csv": rows("train", ("massaging  feet", "a"), ("air-drumming", "v4")),
        "k700/test.csv": "youtube_id,time_start,time_end,split\nv4,10,20,test\n",
        "README.csv.txt": "none",
    }
    lists = {name: text for name, text in (lists | changes).items() if text is not None}
    write(folder, lists)
    return folder


def test_kinetics710_is_the_union_without_what_any_of_the_three_tests_on(tmp_path):
    folder = make_k710(tmp_path / "lists")
    names = [f"{video}_000010_000020.mp4" for video in ("a", "b", "c", "t4", "v4")]
    write(tmp_path / "videos", {}, names)
    root = tmp_path / "videos"
    found = read("kinetics710", root, annotations=str(folder))
    assert found == [
        ("train/a_000010_000020", names[0], "train", "massaging  feet"),
        ("train/b_000010_000020", names[1], "train", "massaging  feet"),
        ("train/c_000010_000020", names[2], "train", "massaging  feet"),
    ]
    notes = "\n".join(check_dataset("kinetics710", root, {"annotations": str(folder)}).notes)
    for words in (
        "2 classes of three lists: names are one class where they agree in lower case",
        "(UniFormerV2 counts 710)",
        "2 classes are written in several ways: 'air drumming' = 'air-drumming'; "
        "'Massaging Feet' = 'massaging  feet' = 'massaging feet'",
        "2 train clips are left out, for their videos are in a validation or test list",
        "1 val clips are left out, for their videos are in a test list",
        "1 clips have another class in an older list: the newest is taken",
    ):
        assert words in notes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kinetics600_train.csv": None}, "no list of Kinetics-600"),
        ({"k400/600.csv": rows("train", ("x", "y"))}, "is it of Kinetics-400 or of Kinetics-600"),
        ({"k400/train.csv": "video_file,label\na.mp4,x\n"}, "no youtube_id"),
        ({"k400/train.csv": rows("train", ("", "y"))}, "train.csv:2: no label"),
    ],
)
def test_lists_of_kinetics710_that_are_missing_or_unclear_are_named(tmp_path, changes, reason):
    make_k710(tmp_path / "annotations", **changes)
    with pytest.raises(UsageError, match=reason):
        load_dataset("kinetics710", tmp_path, {})
