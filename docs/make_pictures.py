"""Make the pictures of docs/img: `python docs/make_pictures.py` where `tokenreel demo` was run.

The flow, the store and the curve of many workers are drawn here as SVG; `extract show`,
`fuse attend` and the page of the demo give the others.  The page is photographed by chromium where
there is one.  `--drawings` makes the SVG files alone, which needs no demo.
"""

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

from tokenreel.pipeline.demo.sample import CLIP

IMAGES = Path(__file__).resolve().parent / "img"
SCALE = IMAGES.parent.parent / "benchmarks" / "results" / "scale_simulation.csv"
BOX, TEXT, EDGE = "#e8eef6", "#1b2733", "#4a6a8a"
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    'font-family="sans-serif" font-size="13" role="img">\n'
    f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{EDGE}"/></marker></defs>\n'
)


def box(x: int, y: int, width: int, height: int, lines: list[str], fill: str = BOX) -> str:
    """A rounded box; its first line is bold."""
    step, weights = 17, ("bold", "normal")
    top = y + height / 2 - step * (len(lines) - 1) / 2 + 5
    text = "".join(
        f'<text x="{x + width / 2:g}" y="{top + step * n:g}" text-anchor="middle" fill="{TEXT}" '
        f'font-weight="{weights[n > 0]}">{line}</text>\n'
        for n, line in enumerate(lines)
    )
    edge = f'rx="7" fill="{fill}" stroke="{EDGE}"'
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {edge}/>\n{text}'


def row(x: int, y: int, width: int, name: str, text: str, fill: str) -> str:
    """A box of one line: a name in bold, then what it is."""
    edge = f'rx="7" fill="{fill}" stroke="{EDGE}"'
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="34" {edge}/>\n'
        f'<text x="{x + 12}" y="{y + 22}" fill="{TEXT}"><tspan font-weight="bold">{name}</tspan> '
        f'<tspan x="{x + 175}">{text}</tspan></text>\n'
    )


def arrow(x: int, y: int, length: int, label: str, below: str) -> str:
    """An arrow to the right with a command above and a remark below."""
    middle = x + length / 2
    return (
        f'<path d="M{x} {y}h{length}" stroke="{EDGE}" stroke-width="2" marker-end="url(#tip)"/>\n'
        f'<text x="{middle:g}" y="{y - 9}" text-anchor="middle" fill="{TEXT}" '
        f'font-family="monospace">{label}</text>\n'
        f'<text x="{middle:g}" y="{y + 52}" text-anchor="middle" fill="{EDGE}">{below}</text>\n'
    )


def flow() -> str:
    """Videos to a store to embeddings to tables."""
    names = [
        ["videos", "labels.csv"],
        ["token store", "Zarr, checked"],
        ["embeddings", "HDF5, a file a run"],
        ["tables", "CSV, page"],
    ]
    commands = [
        ("extract run", "phase 1: frozen ViT, once"),
        ("fuse train", "phase 2: many models"),
        ("evaluate all", "phase 3: CPU, no torch"),
    ]
    parts, x = [HEAD.format(width=842, height=110)], 5
    for n, lines in enumerate(names):
        parts.append(box(x, 15, 130, 60, lines))
        x += 132
        if n < len(commands):
            parts.append(arrow(x, 45, 100, *commands[n]))
            x += 102
    return "".join([*parts, "</svg>\n"])


def store() -> str:
    """The folders of a store, and what a clip holds."""
    parts = [HEAD.format(width=940, height=330)]
    parts.append(box(10, 10, 240, 44, ["stores/NAME", "one identity, one fingerprint"]))
    folders = [
        ("recipe.json", "what the tokens depend on"),
        ("calibration/", "numbers of the codec"),
        ("manifest/", "logs: which clips are committed"),
        ("clips/hh/KEY/", "one group a clip, renamed whole"),
        ("claims/", "who works on a clip"),
        ("failed/", "quarantine, with reasons"),
    ]
    for n, (name, text) in enumerate(folders):
        y = 74 + 42 * n
        fill = "#fdebd0" if name.startswith("clips") else "#f7f9fb"
        parts.append(f'<path d="M30 54V{y + 17}h20" fill="none" stroke="{EDGE}"/>\n')
        parts.append(row(50, y, 410, name, text, fill))
    arrays = [
        ("pts, stop_pts", "(T,) start and stop of each frame"),
        ("labels", "(T,) phase, -1 without one"),
        ("views/0/tokens/11", "(T, n, d) codes of block 11"),
        ("views/0/scale/11", "(T, n) scale of the codes of a token"),
        ("views/0/cls_normed", "(T, D) CLS after the norm"),
        ("views/0/crc32c/11", "(T,) a checksum a frame"),
    ]
    parts.append(f'<path d="M460 217h57" stroke="{EDGE}" stroke-width="2" marker-end="url(#tip)"/>')
    for n, (name, text) in enumerate(arrays):
        parts.append(row(520, 74 + 42 * n, 410, name, text, "#fdebd0"))
    return "".join([*parts, "</svg>\n"])


def scale() -> str:
    """What claims cost and how long the last clips take, over the number of workers."""
    with SCALE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["case"].startswith("bucket")]
    panels = [
        ("time of a worker that claims take, %", "overhead", 100, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("seconds of the last 1 % of the clips", "tail of the last 1 %", 1, [0, 75, 150, 225, 300]),
    ]
    lines = {"deaths seen": ("a driver sees deaths", EDGE)}
    lines |= {"deaths by heartbeat": ("heartbeats alone", "#c0662b")}
    most = max(int(row["shape"].partition(" ")[0]) for row in rows)
    width, height, left, top = 350, 190, 60, 50
    parts = [HEAD.format(width=900, height=310)]
    for n, (title, case, factor, ticks) in enumerate(panels):
        x0, y0 = left + 440 * n, top + height
        parts.append(f'<text x="{x0}" y="{top - 20}" fill="{TEXT}">{title}</text>\n')
        for tick in ticks:
            y = y0 - height * tick / (1.1 * ticks[-1])
            parts.append(
                f'<path d="M{x0} {y:.1f}h{width}" stroke="{BOX}"/>\n'
                f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{TEXT}">'
                f"{tick:g}</text>\n"
            )
        for how, (name, colour) in lines.items():
            points = {
                int(row["shape"].partition(" ")[0]): factor * float(row["median"])
                for row in rows
                if row["case"] == f"{case}, {how}"
            }
            places = [
                (
                    x0 + width * math.log(workers) / math.log(most),
                    y0 - height * value / (1.1 * ticks[-1]),
                )
                for workers, value in sorted(points.items())
            ]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n')
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>\n' for x, y in places
            ]
            if n == 0:
                at = left + 230 * [*lines].index(how)
                parts.append(f'<path d="M{at} 300h24" stroke="{colour}" stroke-width="2"/>\n')
                parts.append(f'<text x="{at + 32}" y="304" fill="{TEXT}">{name}</text>\n')
        for workers in sorted(points):
            x = x0 + width * math.log(workers) / math.log(most)
            label = (
                f'<text x="{x:.1f}" y="{y0 + 20}" text-anchor="middle" fill="{TEXT}">{workers:,}'
            )
            parts.append(f"{label}</text>\n")
        middle = x0 + width / 2
        label = f'<text x="{middle:g}" y="{y0 + 40}" text-anchor="middle" fill="{TEXT}">workers'
        parts.append(f"{label}</text>\n")
    return "".join([*parts, "</svg>\n"])


def program(name: str, *words: str) -> None:
    """Run a program of this environment."""
    subprocess.run([Path(sys.executable).with_name(name), *words], check=True)


def pictures_of_demo() -> None:
    """What the commands draw of the demo in the current folder."""
    [found] = Path("stores").glob("sample-*-random0-*")
    shown = str(IMAGES / "show.png")
    program("extract", "show", CLIP, "--store", str(found), "--frames", "6", "--out", shown)
    [grid] = Path("results/demo/runs").glob("*/*/attention/*.png")
    shutil.copyfile(grid, IMAGES / "attention.png")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no chromium: report.png is left as it is")
        return
    page = Path("results/demo/index.html").resolve().as_uri()
    to = f"--screenshot={IMAGES / 'report.png'}"
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1180,1500", to]
    subprocess.run([chromium, *options, page], check=True, capture_output=True)


def main() -> None:
    """Write every picture."""
    (IMAGES / "flow.svg").write_text(flow())
    (IMAGES / "store.svg").write_text(store())
    (IMAGES / "scale.svg").write_text(scale())
    if "--drawings" not in sys.argv:
        pictures_of_demo()


if __name__ == "__main__":
    main()
