"""What codecs cost: bytes, errors, and the change of a frozen probe, tau and AP@5.

    python benchmarks/store_codecs.py [--quick]

On the embedded sample with its small ViT of fixed random weights (its 54 clips; --quick: 12 of
them), extracted as fp16 in a temporary folder.  `tokenreel fidelity NAME` does the same for tokens
of your own.  A row's ratio is the codec's share of fp16's bytes; the recommended compact codec has
at most 0.13 of them.  The change of a metric is against fp16's, in the same run.
"""

import logging
import math

from harness import Row, Timing, make_row, quick_flag, write_rows

from tokenreel.pipeline.tools.fidelity import (
    COMPACT,
    TASKS,
    FidelityReport,
    FidelityRow,
    fidelity_of,
    fidelity_table,
)


def main() -> None:
    """Measure and write the rows."""
    logging.basicConfig(level=logging.WARNING)
    report = fidelity_of("sample", clips=12 if quick_flag() else 54)
    print(fidelity_table(report))
    compact = report.compact
    assert compact is not None
    assert compact.share <= COMPACT
    rows = []
    for row in report.rows:
        title = f"{row.codec}{' (recommended)' if row is report.default else ''}"
        title += " (recommended compact)" if row is compact else ""
        rows += rows_of(report, row, title)
    write_rows(rows)


def rows_of(report: FidelityReport, row: FidelityRow, title: str) -> list[Row]:
    """A row for each number of a codec."""
    values = {
        ("bytes a frame", "B"): row.bytes_per_frame,
        ("relative error", "of the tokens"): row.error.relative,
        ("pooled error", "of the entities"): row.error.pooled,
        ("worst 1 % cosine", "cosine"): row.error.cosine_worst,
    }
    for task in TASKS:
        values[f"change of {task}", "score"] = report.change(row, task)
    return [
        make_row(
            "store_codecs",
            f"{title}, {what}",
            Timing((value,)),
            unit=unit,
            baseline="fp16",
            shape=f"{report.num_clips} clips, {report.num_frames} frames",
            ratio=row.share,
        )
        for (what, unit), value in values.items()
        if not math.isnan(value)
    ]


if __name__ == "__main__":
    main()
