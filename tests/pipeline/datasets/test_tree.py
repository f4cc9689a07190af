"""Files below a folder: their order, what is left out, and links that are entered once."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tokenreel.pipeline.datasets.tree import _identity, walk_tree


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_in_order_and_hidden_names_are_left_out(tmp_path):
    fill(tmp_path, "b/2.mp4", "b/1.mp4", "a/c/3.mp4", "a.mp4", ".a/1.mp4", "b/.1.mp4")
    (tmp_path / "b/link.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    tree = walk_tree(tmp_path, follow_links=False)
    wanted = ["a.mp4", "a/c/3.mp4", "b/1.mp4", "b/2.mp4", "b/link.mp4", "loop.mp4"]
    assert tree.files == wanted
    assert tree.links == {"b/link.mp4", "loop.mp4"}
    assert list(tree.folders) == ["", "a", "a/c", "b"]
    assert tree.folders["b"] == ["1.mp4", "2.mp4", "link.mp4"]
    assert (tree.left_links, tree.unreadable, tree.num_array_folders) == ([], [], 0)


@pytest.mark.parametrize("name", ["zarr.json", ".zgroup", ".zarray"])
def test_folders_of_arrays_are_counted_and_not_entered(tmp_path, name):
    fill(tmp_path, f"s/{name}", "s/a.mp4", "s/c/b.mp4", f"t/{name}", "a.mp4", name)
    tree = walk_tree(tmp_path, follow_links=False)
    assert tree.num_array_folders == 2
    assert [file for file in tree.files if file.endswith(".mp4")] == ["a.mp4"], "the root is one"
    assert list(tree.folders) == [""]


@pytest.mark.parametrize("is_backward", [False, True])
def test_links_are_entered_by_name_each_folder_once_and_by_its_own_name_first(
    tmp_path, is_backward, monkeypatch
):
    scan = os.scandir

    @contextmanager
    def in_order(path):
        with scan(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=is_backward)

    monkeypatch.setattr(os, "scandir", in_order)
    root, away = tmp_path / "root", tmp_path / "away"
    fill(root, "own/1.mp4")
    fill(away, "2.mp4", "deep/3.mp4")
    for name, target in (("c", away), ("b", away), ("a", root / "own"), ("up", root)):
        (root / name).symlink_to(target)
    (away / "a").symlink_to(away / "deep")
    tree = walk_tree(root, follow_links=True)
    assert tree.files == ["b/2.mp4", "b/deep/3.mp4", "own/1.mp4"]
    again = "leads to a folder that is listed already"
    assert tree.left_links == [(name, again) for name in ("a", "b/a", "c", "up")]
    left = walk_tree(root, follow_links=False)
    assert left.files == ["own/1.mp4"]
    assert left.left_links == [(name, "") for name in ("a", "b", "c", "up")]


def test_folders_that_cannot_be_entered_are_listed_in_order(tmp_path, monkeypatch):
    fill(tmp_path, "a.b/1.mp4", "a/c/2.mp4", "c/3.mp4")
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) in ("a.b", "c"):  # noqa: PTH119
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree = walk_tree(tmp_path, follow_links=False)
    assert tree.unreadable == [(name, "permission denied") for name in ("a.b", "a/c", "c")]
    monkeypatch.setattr(os, "scandir", lambda path: scan(os.path.join(path, "nowhere")))  # noqa: PTH118
    assert walk_tree(tmp_path, follow_links=False).unreadable == [
        (".", "no such file or directory")
    ]


def test_folders_of_two_disks_are_two_whatever_their_numbers():
    first, other = (_identity(SimpleNamespace(st_dev=disk, st_ino=7)) for disk in (1, 2))
    assert first != other
