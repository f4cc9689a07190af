"""Engines that train the runs of a table: this machine, a SLURM cluster, or Ray.

`TABLE_ENGINES` names them.  An engine is a function that takes a TableRequest and a Placement and
returns the LaunchedTable.
"""

from tokenreel.cache.plugins import Table

__all__ = ["TABLE_ENGINES"]

TABLE_ENGINES = Table(
    "engine of tables",
    "tokenreel.table_engines",
    {
        "local": "tokenreel.pipeline.launch.tables.local:launch",
        "ray": "tokenreel.pipeline.launch.tables.ray_engine:launch",
        "slurm": "tokenreel.pipeline.launch.tables.slurm:launch",
    },
)
