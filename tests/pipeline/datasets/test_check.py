"""`check_dataset`: what is expected, what is found, coverage by split, action and phase."""

from tokenreel.pipeline.datasets import check_dataset


def test_a_folder_is_counted_by_split_action_and_phase(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "clips.csv").write_text(
        "video,split,action,group\na.mp4,train,pour,g\nb.mp4,val,pour,g\nc.mp4,val,pour,h\n"
    )
    (tmp_path / "phases.csv").write_text("action,phase\npour,reach\npour,tilt\n")
    (tmp_path / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\na.mp4,0,1.5,reach\nb.mp4,0,2,reach\n"
    )

    check = check_dataset("folder", tmp_path, {})

    assert [(s.split, s.listed, s.found, s.labelled) for s in check.splits] == [
        ("train", 1, 1, 1),
        ("val", 2, 2, 1),
    ]
    assert check.shared == ("g",)
    assert check.is_complete
    text = check.text()
    assert "pour: 1 train, 2 val" in text
    assert "0 reach: 1.5s train, 2.0s val" in text
    assert "1 tilt: 0.0s train, 0.0s val" in text
    assert "groups with clips in train and in val: 1" in text
