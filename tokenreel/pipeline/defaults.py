"""Where things are by default, and which code and store a run comes from."""

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import MachineError, StoreError, UsageError
from tokenreel.cache.files import entries_of
from tokenreel.cache.format.source_notes import read_notes
from tokenreel.cache.format.store_files import StoreFacts, load_identity
from tokenreel.cache.provenance import STORE_PATH, describe_fingerprints, names_same_store
from tokenreel.cache.read.store_reader import Store, open_store

log = logging.getLogger(__name__)

DATA = Path("data")
STORES = Path("stores")
RUNS = Path("runs")
RESULTS = Path("results")
SCENES = Path("scenes")

SAMPLE = "sample-5"  # what the sample of this version is called: its folder, stores and rows

GIT_SECONDS = 120  # in which it looks at each file, on a slow disk too

EMBEDDINGS = "embeddings.h5"  # the file of a run that phase 3 reads


def root_of(dataset: str) -> Path:
    """The default folder of a data set; each version of the sample has its own.

    >>> root_of("finegym").as_posix(), root_of("sample").as_posix()
    ('data/finegym', 'data/sample-5')
    """
    return DATA / (SAMPLE if dataset == "sample" else dataset)


@cache
def code_version() -> str:
    """The commit of the checkout this package lies in, "-dirty" when changed; else the version.

    Raises:
        MachineError: git does not answer.
    """
    package = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        run = subprocess.run(
            command, cwd=package, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"{package}: git does not say within {GIT_SECONDS} s which commit this is: run "
            f"`{' '.join(command)}` there to see why"
        ) from None
    except OSError:
        return metadata.version("tokenreel")
    return run.stdout.strip() if run.returncode == 0 else metadata.version("tokenreel")


def find_store(dataset: str, *, folder: Path = STORES) -> Path:
    """The one store of a data set below a folder.

    Raises:
        UsageError: there is none, or more than one; the message says what to type.
    """
    found = [path for path in stores_below(folder) if dataset_of(open_store(path)) == dataset]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"no store of {dataset} in {folder}/ (you are in {Path.cwd()}): make one with "
            f"`extract run {dataset}`, or add --store PATH"
        )
    names = "\n".join(f"  --store {path}" for path in found)
    raise UsageError(f"{len(found)} stores of {dataset} in {folder}/, name one of:\n{names}")


def stores_below(folder: Path) -> list[Path]:
    """Every token store directly below a folder, sorted by name; not what is in the making."""
    return [path for path in entries_of(folder, "[!.]*") if (path / "recipe.json").exists()]


def find_runs(words: Sequence[Path]) -> list[Path]:
    """The embedding files of the runs named, or of every run below runs/.

    A word may be a run, a folder of runs or an embedding file.

    Raises:
        UsageError: a word that is none of these, or no run at all.
    """
    found = [] if words else _embeddings_below(RUNS)
    if not words and not found:
        raise UsageError(
            f"no run in {RUNS}/ (you are in {Path.cwd()}): train one with `fuse train`, or name one"
        )
    for word in words:
        files = [word] if word.is_file() else _embeddings_below(word)
        if not files:
            raise UsageError(_why_no_run(word))
        found += files
    for folder in words or [RUNS]:
        walk = os.walk(folder)
        for run in sorted(Path(inner) for inner, _, names in walk if "run.json" in names):
            if run / EMBEDDINGS not in found:
                log.warning("left out: %s", _unfinished(run))
    return found


def _embeddings_below(folder: Path) -> list[Path]:
    """Embedding files below a folder; of a folder that cannot be read the file it may hold.

    That one then fails by name, and is not passed over.
    """
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            closed.append(Path(error.filename) / EMBEDDINGS)

    walk = os.walk(folder, onerror=note)
    found = [Path(inner, EMBEDDINGS) for inner, _, names in walk if EMBEDDINGS in names]
    return sorted([*found, *closed])


def _why_no_run(word: Path) -> str:
    """Why a word names no run, and what to type."""
    if (word / "run.json").is_file():
        return _unfinished(word)
    if (word / "recipe.json").is_file():
        return f"{word} is a token store, not a run: type `evaluate frozen {word}`, or name a run"
    what = "holds no embeddings.h5" if word.is_dir() else "does not exist"
    return f"{word} {what}: name a run, a folder of runs or an embedding file"


def _unfinished(run: Path) -> str:
    """Where a run stopped that has no embeddings yet, as far as its files say."""
    try:
        config = read_json((run / "run.json").read_bytes())["config"]
        epochs = int(config["optim"]["epochs"])
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        done = max((int(read_json(line)["epoch"]) + 1 for line in lines), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{run}: this run is not finished: type its `fuse train` again"
    return f"{run}: this run stopped at epoch {done} of {epochs}: type its `fuse train` again"


def videos_of_store(store: Store | Path, root: Path | None = None) -> Path:
    """The folder of the videos of a store.

    Args:
        store: the store or its directory.
        root: the folder that the user named; it counts.

    Returns:
        The first folder there is of: where the videos were when they were last compared, or when
        the store was made, or data/<dataset>; data/<dataset> where there is none.
    """
    if root is not None:
        return store_path(root)
    path = store.path if isinstance(store, Store) else store
    attributes = load_identity(path)[1]
    default = DATA / str(attributes["made_with"].get("dataset", ""))
    hints = (read_notes(path).root, StoreFacts.of(attributes).root)
    return next((store_path(hint) for hint in hints if hint and _is_folder(hint)), default)


def _is_folder(hint: str) -> bool:
    """Whether a folder of videos is where a store says, and this process may look at it."""
    try:
        return store_path(hint).is_dir()
    except (OSError, UsageError) as error:
        log.warning("%s, where the videos were: %s", hint, error)
        return False


def store_of_run(folder: Path, provenance: Mapping[str, Any]) -> Path | None:
    """The store that a run or an embedding file was made on; None where it is not found.

    Args:
        folder: of the run, or of the file; its run.json says where the store was.
        provenance: of it.
    """
    places = [STORES / str(provenance["store_name"])] if provenance.get("store_name") else []
    try:
        where = read_json((folder / "run.json").read_bytes()).get(STORE_PATH)
        if where:
            places += [Path(where), Path(where).parent / str(provenance.get("store_name"))]
    except (OSError, ValueError, AttributeError):  # no run, or a torn one
        pass
    for path in places:
        try:
            identity, attributes = load_identity(path)
        except StoreError:
            continue
        former = StoreFacts.of(attributes).former_fingerprints
        if names_same_store(provenance, describe_fingerprints(identity.fingerprint, former)):
            return path
    return None


def require_store_of_run(folder: Path, provenance: Mapping[str, Any]) -> Path:
    """As store_of_run.

    Raises:
        UsageError: it is not found.
    """
    path = store_of_run(folder, provenance)
    if path is None:
        raise UsageError(
            f"{folder} was trained on {provenance.get('store_name')}: its store is not in "
            f"./{STORES} (you are in {Path.cwd()}): add --store PATH"
        )
    return path


def dataset_of(store: Store) -> str:
    """The data set that a store was made of; "" where it does not say."""
    return str(store.made_with.get("dataset", ""))
