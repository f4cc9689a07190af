"""What the codecs of a clip's map cost: bytes, the time to read a clip, the error of the tokens.

    python benchmarks/clip_maps.py [--quick]

Maps of ViT-B/16 with 8 frames and of ViT-L/14 with 32, of random tokens with channels of different
sizes.  The ratio is seconds to read and decode a clip of fp16 / that of the codec, from the page
cache, one thread; the case names the bytes of a clip and the error against the tokens.  No claim
hangs on it: `extract plan` measures the disk.
"""

import tempfile
from pathlib import Path

import numpy as np
from harness import make_row, measure, quick_flag, write_rows

from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.import_features import ImportStatement, import_features

CODECS = ("fp16", "int8", "int4", "pool2", "pool2+int8", "mean")
MAPS = {"ViT-B/16 x 8": (8, 14, 768), "ViT-L/14 x 32": (32, 16, 1024)}


def main() -> None:
    """Measure both maps with every codec."""
    clips, repeats = (2, 3) if quick_flag() else (8, 9)
    rows = []
    for name, (frames, side, dim) in MAPS.items():
        draw = np.random.default_rng(0)
        sizes = draw.gamma(2, 1, dim).astype(np.float32)
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "features").mkdir()
            for number in range(clips):
                tokens = draw.normal(size=(frames, side * side, dim)).astype(np.float32) * sizes
                np.save(folder / "features" / f"{number}.npy", tokens)
            rows += measure_codecs(folder, name, (frames, side, dim), repeats=repeats)
    write_rows(rows)


def measure_codecs(folder: Path, name: str, shape: tuple[int, int, int], *, repeats: int) -> list:
    """Rows of one map."""
    frames, side, dim = shape
    stores = {}
    for codec in CODECS:
        statement = ImportStatement(
            dataset="maps",
            architecture=name,
            weights_sha256="0" * 64,
            blocks=(0,),
            grid=(side, side),
            dim=dim,
            image_size=(224, 224),
            transform={"name": "cover"},
            frames={"policy": "uniform", "count": frames},
            fps=25,
            codec=codec,
        )
        import_features(folder / "features", folder / codec, statement)
        stores[codec] = open_store(folder / codec)
    ids = sorted(stores["fp16"].records)

    def reading(store):
        return lambda: [store.read(clip_id).decode(0) for clip_id in ids]

    subjects = {codec: reading(store) for codec, store in stores.items()}
    times = measure(subjects, repeats=repeats)
    rows = []
    for codec in CODECS:
        files = [path for path in (folder / codec / "clips").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / len(ids)
        wanted = np.load(folder / "features" / "0.npy")
        found = stores[codec].read(ids[0]).decode(0)
        error = "fewer tokens"
        if found.shape == wanted.shape:
            error = f"error {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.4f}"
        rows.append(
            make_row(
                "clip_maps",
                f"{name}, {codec}: fp16 / this, {size / 1e6:.3f} MB a clip, {error}",
                times[codec],
                shape=f"{len(ids)} clips of {frames}x{side}x{side}x{dim}",
                baseline="fp16",
                ratio=times["fp16"].median / times[codec].median,
            )
        )
    return rows


if __name__ == "__main__":
    main()
