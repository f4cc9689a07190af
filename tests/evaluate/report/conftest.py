"""The evaluated runs that the tests of the report share."""

import pytest

from tests.evaluate.report.made import write_runs


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))
