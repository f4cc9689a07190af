"""The three methods of `extract scenes` compared on videos: the table of docs/scenes.md.

    python benchmarks/scene_methods.py VIDEO [VIDEO ...]

Needs the extra `scenes`, and a commit.  A row a video: frames, cuts of each method, and F1 between
each two of them, where a cut of one is found by the other within 5 frames, each at most once.
"""

import datetime
import sys
from itertools import combinations
from pathlib import Path

from harness import RESULTS, commit_name, cpu_name, read_rows, save_rows

from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.run import describe_method
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.extract.video.types import VideoError

METHODS = ("running-mean", "content", "transnetv2")
TOLERANCE = 5  # frames
FILE = RESULTS / "scene_methods.csv"


def f1(one: list[int], other: list[int]) -> float | None:
    """2 x common / all cuts of two lists, each ascending; None where neither has one.

    >>> f1([10, 50, 90], [12, 55]), f1([10], [16])
    (0.8, 0.0)
    """
    common = place = 0
    for cut in one:
        while place < len(other) and other[place] < cut - TOLERANCE:
            place += 1
        if place < len(other) and other[place] <= cut + TOLERANCE:
            common, place = common + 1, place + 1
    return 2 * common / (len(one) + len(other)) if one or other else None


def cuts_of(path: Path, method: str) -> tuple[list[int], int]:
    """Numbers of the first frames of all scenes but the first, and the frames of a video."""
    starts, total = [], 0
    for scene in find_scenes(path, cutter_for(ScenesConfig(method=method))):
        starts.append(total)
        total += scene.num_frames
    return starts[1:], total


def main() -> None:
    """Measure the videos named, and keep a row of each."""
    versions = {
        name: version
        for method in METHODS
        for name, version in describe_method(ScenesConfig(method=method))["versions"].items()
    }
    for path in map(Path, sys.argv[1:]):
        try:
            found = {method: cuts_of(path, method) for method in METHODS}
        except VideoError as error:
            print(f"{path.name}: left out: {error}", file=sys.stderr)
            continue
        row = {"benchmark": "scene_methods", "case": path.name}
        row["shape"] = str(found[METHODS[0]][1])
        row |= {f"cuts, {method}": str(len(found[method][0])) for method in METHODS}
        for one, other in combinations(METHODS, 2):
            score = f1(found[one][0], found[other][0])
            row[f"F1 of {one} and {other}"] = "-" if score is None else f"{score:.3f}"
        row |= {"device": cpu_name(), "commit": commit_name()}
        row["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        row["versions"] = " ".join(f"{name} {version}" for name, version in versions.items())
        print(", ".join(f"{name} {row[name]}" for name in row if name not in ("versions",)))
        kept = [other for other in read_rows(FILE) if other["case"] != path.name]
        save_rows(FILE, [*kept, row])


if __name__ == "__main__":
    main()
