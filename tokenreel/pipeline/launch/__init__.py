"""Engines that run an extraction: this machine, a SLURM cluster, or Ray.

`ENGINES` names them all: ours, one file and one line each, and those of plugins.  An engine is a
function that takes an Extraction and a Placement and returns what it Launched.
"""

from tokenreel.cache.plugins import Table

__all__ = ["ENGINES"]

ENGINES = Table(
    "engine",
    "tokenreel.engines",
    {
        "local": "tokenreel.pipeline.launch.local:launch",
        "ray": "tokenreel.pipeline.launch.ray_engine:launch",
        "slurm": "tokenreel.pipeline.launch.slurm:launch",
    },
)
