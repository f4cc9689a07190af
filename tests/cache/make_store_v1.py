"""Makes tests/golden/store_v1: `python tests/cache/make_store_v1.py DIRECTORY`, once per format."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import stores


def main(path: Path) -> None:
    stores.make_store(path)
    with stores.StoreWriter(path, writer_id="golden") as writer:
        stores.write_clip(writer, "a/1", 66)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
