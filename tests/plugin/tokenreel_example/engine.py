"""An engine: shards one after another, each in a run of its own."""

from dataclasses import replace

from tokenreel.extract.flow.gpus import merge_reports
from tokenreel.pipeline.launch.base import Extraction, Launched, Placement, ready
from tokenreel.pipeline.launch.local import launch as launch_here


def launch(extraction: Extraction, placement: Placement) -> Launched:
    """Extract as many shards as there are nodes."""
    placement.require_only("example-shards", ["nodes"])
    extraction, _, _ = ready(extraction)
    count = placement.nodes or 1
    reports = []
    for part in range(count):
        done = launch_here(replace(extraction, shard=f"{part}/{count}"), Placement())
        assert done.report is not None
        reports.append(done.report)
    return Launched(merge_reports(reports), extraction.out, (f"{count} shard(s) were extracted",))
