"""Numbers and columns as they are printed, by hand."""

import math

import numpy as np
import pytest

from tokenreel.evaluate.tables.printed import align_columns, as_measured, as_printed, two_std


def test_two_std_need_more_values_than_ddof():
    assert two_std([1.0, 3.0]) == 2.0
    assert two_std([1.0, 3.0], ddof=1) == pytest.approx(2 * math.sqrt(2))
    assert two_std([1.0]) == 0.0
    assert np.isnan([two_std([]), two_std([1.0], ddof=1)]).all()


def test_zero_is_a_number_and_nan_is_none():
    assert as_printed("tau", 0.0, 0.0) == "0.000 +- 0.000"
    assert as_printed("tau", 0.0, None) == "0.000"
    assert as_printed("classification", 94.215, None) == "94.215"
    assert as_measured("tau", 0.0, 0.0, sign="±") == "0.000 ± 0.000"
    assert as_measured("classification", math.nan, 1.0) == "-"


def test_columns_are_as_wide_as_their_widest_cells_and_lines_end_with_their_last():
    assert align_columns([["a", "bb", ""], ["ccc", "d", "e"]]) == ["a    bb", "ccc  d   e"]
    assert align_columns([]) == []
