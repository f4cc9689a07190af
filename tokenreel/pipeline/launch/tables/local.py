"""The engine of this machine: all runs in lock-step in one process."""

from tokenreel.pipeline.launch.base import Placement
from tokenreel.pipeline.launch.tables.base import LaunchedTable, TableRequest


def launch(request: TableRequest, placement: Placement) -> LaunchedTable:
    """Train the table here, and wait for the end; raises as ablate."""
    placement.require_only("local", ())
    return LaunchedTable(request.make())
