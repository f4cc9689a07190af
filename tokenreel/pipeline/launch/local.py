"""The engine of this machine: one process, or one for each GPU."""

from tokenreel.pipeline.launch.base import Extraction, Launched, Placement
from tokenreel.pipeline.phases.extraction import extract_dataset


def launch(extraction: Extraction, placement: Placement) -> Launched:
    """Extract here, and wait for the end."""
    placement.require_only("local", ["gpus"])
    report, store = extract_dataset(
        extraction.dataset,
        extraction.words,
        root=extraction.root,
        out=extraction.out,
        shard=extraction.shard,
        gpus=placement.gpus,
        limit=extraction.limit,
        changed=extraction.changed,
    )
    return Launched(report, store)
