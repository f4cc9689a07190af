"""`extract plan` with `--gpus` and `--nodes`: what 10^3 to 10^7 clips like these cost on a cluster.

Arithmetic on a Plan: its clips are the sample, and this machine's rates are those of each GPU, each
core and the shared disk.
"""

import os
from dataclasses import dataclass

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.layout import SEGMENT
from tokenreel.pipeline.phases.planning import Plan
from tokenreel.pipeline.text import format_table

SIZES = tuple(10**power for power in range(3, 8))
MOST_GPUS = 1024  # of a node
RESERVED_CORES = 2  # of each GPU, which feed it and write


@dataclass(frozen=True)
class Cluster:
    """Machines of an extraction.

    Attributes:
        nodes: M.
        gpus: of each node; 0 for its processors.
        cores: of each node.
    """

    nodes: int
    gpus: int
    cores: int

    @property
    def decoders(self) -> int:
        """Decode processes of a node."""
        return max(self.cores - RESERVED_CORES * self.gpus, max(self.gpus, 1))


@dataclass(frozen=True)
class Estimate:
    """Cost of an extraction on a cluster.

    Attributes:
        num_clips: how many.
        num_bytes: of the store.
        num_files: inodes on a disk.
        num_objects: of a bucket.
        num_puts: PUT requests: one for each object, and one for the claim of each clip.
        num_reads: GET requests of an epoch of one block, one for each of its files.
        hours: of each resource, if it alone were the limit.
        node_bytes: a second that each node reads and writes over the network.
    """

    num_clips: int
    num_bytes: float
    num_files: int
    num_objects: int
    num_puts: int
    num_reads: int
    hours: dict[str, float]
    node_bytes: float

    @property
    def limit(self) -> str:
        """The resource that the others wait for."""
        return max(self.hours, key=lambda name: self.hours[name])


def cluster_of(gpus: str | None, nodes: int | None, cpus: int | None) -> Cluster:
    """The machines that the words of a command describe.

    Args:
        gpus: of each node; None for processors.
        nodes: 1 when None.
        cpus: cores of each node; those of this machine when None.

    Raises:
        UsageError: GPUs that are not counted.
    """
    if gpus is not None and not (is_whole_number(gpus) and 0 < int(gpus) <= MOST_GPUS):
        raise UsageError(
            f"--gpus {gpus}: for a plan give the number of GPUs of each node, {MOST_GPUS} at most"
        )
    cores = cpus or len(os.sched_getaffinity(0))
    return Cluster(nodes or 1, int(gpus or 0), cores)


def estimate(plan: Plan, cluster: Cluster, num_clips: int) -> Estimate:
    """The cost of clips like those of a plan.

    Processors decode and compute on the same cores, so that these times add up.

    Args:
        plan: of a sample of the clips, with the rates of this machine.
        cluster: the machines; each GPU as fast as the one measured, or each core as one of those.
        num_clips: how many.
    """
    survey, rates, size = plan.survey, plan.rates, plan.sizes[0]
    share = num_clips / len(survey.clip_frames)
    frames = survey.num_frames * share
    stored = size.num_bytes * share
    video = survey.video_bytes * share
    images = frames * plan.views / rates.backbone_frames
    decoding = 0.0  # where no clip could be decoded
    if rates.decode_frames:
        decoding = frames * survey.decoded_per_frame / rates.decode_frames / cluster.nodes
    seconds = {"decoding": decoding / cluster.decoders}
    if cluster.gpus:
        seconds["GPU"] = images / cluster.nodes / cluster.gpus
    else:
        here = len(os.sched_getaffinity(0))  # of the backbone that was measured
        seconds["processors"] = (images / cluster.nodes * here + decoding) / cluster.cores
    seconds["disk"] = stored / rates.write_bytes + video / rates.read_bytes
    longest = max(seconds.values())
    segments = sum(-(-count // SEGMENT) for count in survey.clip_frames.values())
    return Estimate(
        num_clips,
        stored,
        round((size.num_files + size.num_folders) * share),
        round(size.num_files * share),
        round(size.num_files * share) + num_clips,
        round(segments * share),
        {name: value / 3600 for name, value in seconds.items()},
        (stored + video) / longest / cluster.nodes,
    )


def cluster_table(plan: Plan, cluster: Cluster) -> str:
    """The estimates of 10^3 to 10^7 clips, in lines."""
    rows = []
    for num_clips in SIZES:
        found = estimate(plan, cluster, num_clips)
        rows.append(
            [
                f"{num_clips:,}",
                short_number(found.hours[found.limit]),
                found.limit,
                short_number(found.num_bytes / 1e12, digits=3),
                f"{found.num_files:,}",
                f"{found.num_objects:,}",
                f"{found.num_puts:,}",
                f"{found.num_reads:,}",
                short_number(found.node_bytes / 1e6, digits=0),
            ]
        )
    what = f"{cluster.gpus} GPUs" if cluster.gpus else "processors"
    is_other = (plan.rates.device == "cpu") == bool(cluster.gpus)
    note = (
        f"the backbone was measured on {plan.rates.device}, not on {what}: the hours are not those"
    )
    header = ["clips", "hours", "limit", "TB", "inodes"]
    header += ["objects", "PUT", "GET/epoch", "MB/s a node"]
    return "\n".join(
        [
            f"{cluster.nodes} node(s) of {what} and {cluster.cores} cores, each as fast as "
            "measured here, on one disk as fast as this one:",
            *([f"{note} of such nodes; run the command on one of them"] if is_other else []),
            format_table(header, rows),
        ]
    )


def short_number(value: float, *, digits: int = 1) -> str:
    """A number for people: some digits after the point, and of small ones two digits in all.

    >>> short_number(2222.22), short_number(0.0347), short_number(1.5, digits=0)
    ('2222.2', '0.035', '1.5')
    """
    is_small = value < 10 ** (1 - digits)
    return f"{value:.2g}" if is_small and value else f"{value:.{digits}f}"
