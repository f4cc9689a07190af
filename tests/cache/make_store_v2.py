"""Makes tests/golden/store_v2: `python tests/cache/make_store_v2.py DIRECTORY`, once per format."""

import dataclasses
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import stores

from tokenreel.cache.format.store_files import StoreFacts, create_store

UNITS = 66
SOURCE = dataclasses.replace(
    stores.SOURCE, mtime_ns=1_700_000_000_123_456_789, pixel_aspect=(16, 15), orientation=90
)


def text(unit: int) -> bytes:
    """The text of a unit, of 0 to 6 bytes."""
    return b"scene "[: unit % 7] if unit % 2 else f"{unit}é"[: unit % 4].encode()


def main(path: Path) -> None:
    identity, calibration = stores.make_identity("int8")
    scenes = type(identity).model_validate(
        identity.model_dump(mode="json")
        | {
            "unit": "scene",
            "frames": {"policy": "listed", "sha256": "1" * 64},
            "frames_per_window": 12,
            "rows_per_window": 1,
        }
    )
    facts = StoreFacts("videos", ("2" * 64,), {"lab.note": [1, None]})
    create_store(path, scenes, made_with={"numpy": "any"}, calibration=calibration, facts=facts)
    with stores.StoreWriter(path, writer_id="golden") as writer:
        clip = writer.begin(
            dataclasses.replace(stores.make_clip("a/1"), tags=("comedy", "war")),
            dataset="d",
            phases=("x", "y"),
            source=SOURCE,
            time_base=Fraction(1, 25),
            byte_arrays=("text",),
            extra={"lab.camera": {"id": 3}},
        )
        stores.append(writer, clip, "a/1", UNITS)
        clip.append_bytes("text", [text(unit) for unit in range(UNITS)])
        count = np.arange(UNITS)
        clip.commit(
            count * 4, count * 8, count % 2, np.zeros(UNITS, np.uint8), stop_pts=count * 4 + 3
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
