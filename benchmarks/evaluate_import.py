"""`import tokenreel.evaluate` takes less than a second and brings no torch.

Claim: in a fresh process, the package, and the suite, which reads files and plans; scikit-learn is
imported when something is fitted.  The ratio is against `import numpy` in the same run: what nobody
can do without.
"""

import subprocess
import sys

from harness import make_row, measure, quick_flag, write_rows

SUBJECTS = {
    "tokenreel.evaluate": "import tokenreel.evaluate",
    "tokenreel.evaluate suite (h5py, pydantic)": "import tokenreel.evaluate.commands.suite",
    "numpy": "import numpy",
}


def run(code: str) -> None:
    """Run the code in a fresh process; it fails where torch came along."""
    check = f"{code}; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def main() -> None:
    """Measure and write the rows."""
    repeats = 3 if quick_flag() else 9
    timings = measure(
        {name: (lambda code=code: run(code)) for name, code in SUBJECTS.items()}, repeats=repeats
    )
    base = timings["numpy"]
    write_rows(
        [
            make_row(
                "evaluate_import",
                f"import {name}",
                timings[name],
                shape="a fresh process",
                baseline="import numpy",
                ratio=timings[name].median / base.median,
            )
            for name in SUBJECTS
        ]
    )


if __name__ == "__main__":
    main()
