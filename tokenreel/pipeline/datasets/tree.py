"""Files of a folder and of the folders in it; what cannot be entered is listed, never passed over.

Names are those of `text_of_name`: the same in every locale.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.cache.bucket.path import bucket_path, is_bucket
from tokenreel.cache.manifest import path_below, text_of_name

DATA_FOLDERS = ("zarr.json", ".zgroup", ".zarray")  # in a folder of arrays, not of videos


@dataclass
class FolderTree:
    """Files of a folder and of the folders in it; hidden names and folders of arrays are left out.

    Attributes:
        root: the folder.
        files: texts of their paths below the root, with forward slashes, in order.
        links: those that are links.
        folders: folders that were entered -> names of their files; "" is the root.
        unreadable: (path, reason) of what could not be read.
        left_links: links to folders that were not entered, each with the reason.
        num_array_folders: folders of arrays, such as stores, that were not entered.
    """

    root: Path
    files: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    folders: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    left_links: list[tuple[str, str]] = field(default_factory=list)
    num_array_folders: int = 0


def walk_tree(root: Path, *, follow_links: bool) -> FolderTree:
    """Every file below a folder.

    Args:
        root: the folder.
        follow_links: whether links to folders are entered.  Each folder is entered once, by its
            own name where it has one below the root: so a link to a parent ends there.
    """
    tree = FolderTree(root)
    if is_bucket(root):
        _list_bucket(tree)
        return tree
    entered: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        if not folders:  # own names come first
            folders.append(links.pop(0))
        name = folders.pop()
        try:
            identity = _identity(path_below(root, name).stat())
            if identity in entered:
                tree.left_links.append((name, "leads to a folder that is listed already"))
                continue
            entered.add(identity)
            found, linked = _enter(tree, name)
        except OSError as error:
            tree.unreadable.append((name or ".", (error.strerror or str(error)).lower()))
            continue
        folders += reversed(found)
        if follow_links:
            links = sorted([*links, *linked])
        else:
            tree.left_links += [(link, "") for link in linked]
    tree.files.sort()
    tree.unreadable.sort()
    tree.left_links.sort()
    return tree


def _list_bucket(tree: FolderTree) -> None:
    """Every object below a root on a bucket, by one listing; its stores are left out."""
    root = bucket_path(tree.root)
    names = [path.relative_to(root).as_posix() for path, _ in root.objects()]
    inside = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in DATA_FOLDERS}
    arrays = sorted(inside - {""})
    tops = [name for name in arrays if not any(name.startswith(f"{top}/") for top in arrays)]
    tree.num_array_folders = len(tops)
    for name in names:
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and not any(name.startswith(f"{top}/") for top in tops):
            folder, _, own = name.rpartition("/")
            tree.files.append(name)
            tree.folders.setdefault(folder, []).append(own)


def _enter(tree: FolderTree, name: str) -> tuple[list[str], list[str]]:
    """Add the files of a folder; returns its folders and its links to folders."""
    folders, links, files = [], [], []
    with os.scandir(path_below(tree.root, name)) as scan:
        entries = list(scan)
    if name and any(entry.name in DATA_FOLDERS for entry in entries):
        tree.num_array_folders += 1
        return [], []
    for entry in entries:
        own = text_of_name(entry.name)
        text = f"{name}/{own}" if name else own
        if own.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(text)
        elif entry.is_symlink() and _is_folder(entry):
            links.append(text)
        else:
            files.append(own)
            tree.files.append(text)
            if entry.is_symlink():
                tree.links.add(text)
    tree.folders[name] = sorted(files)
    return sorted(folders), links


def _is_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a loop of links, or behind a folder that may not be entered
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
