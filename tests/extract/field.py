"""Inputs once read wrongly or refused; TOKENREEL_FIELD names another folder of the same names."""

import os
from pathlib import Path

FIELD = Path(os.environ.get("TOKENREEL_FIELD") or Path(__file__).parents[1] / "field")
