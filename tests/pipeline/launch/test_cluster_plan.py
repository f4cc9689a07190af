"""The plan of a cluster is arithmetic that can be done by hand."""

from dataclasses import replace

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.preview.plan import HeaderSurvey, MachineRates, StoreSize
from tokenreel.pipeline.launch.cluster_plan import Cluster, cluster_of, cluster_table, estimate
from tokenreel.pipeline.phases.planning import Plan

# 2 clips of 100 and 60 frames: 160 frames, 1.6 MB of store, 3 segments, 0.8 MB of video
SURVEY = HeaderSurvey({"a": 100, "b": 60}, 8.0, 160, 800_000, ())
SIZE = StoreSize("int8", 10_000.0, 1_600_000, 60, 80)
RATES = MachineRates("cuda:0", 40.0, 100.0, 1e6, 8e6)
PLAN = Plan("sample", ExtractConfig(), SURVEY, RATES, (SIZE,), (), free_bytes=10)


def test_a_cluster_divides_the_time_of_gpus_and_of_cores_and_not_that_of_the_disk():
    found = estimate(PLAN, Cluster(nodes=5, gpus=2, cores=12), 2_000)
    # 160,000 frames; 10 GPUs of 100 frames/s; 5 x (12 - 2 x 2) processes of 40 frames/s
    assert found.hours["GPU"] * 3600 == pytest.approx(160)
    assert found.hours["decoding"] * 3600 == pytest.approx(100)
    assert found.hours["disk"] * 3600 == pytest.approx(1600 + 100)  # 1.6 GB out, 0.8 GB in
    assert found.limit == "disk"
    assert (found.num_files, found.num_objects, found.num_reads) == (140_000, 60_000, 3_000)
    assert found.num_bytes == pytest.approx(1.6e9)
    assert found.node_bytes == pytest.approx(2.4e9 / 1700 / 5)


def test_the_resource_that_limits_is_named_for_each_size():
    fast = replace(PLAN, rates=replace(RATES, write_bytes=1e12, read_bytes=1e12))
    table = cluster_table(fast, Cluster(nodes=1, gpus=1, cores=100))
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1,000", "10,000", "100,000", "1,000,000", "10,000,000"]
    assert {row[2] for row in rows} == {"GPU"}
    assert rows[-1][1] == f"{80 * 10**7 / 100 / 3600:.1f}"
    narrow = cluster_table(fast, Cluster(nodes=1, gpus=1, cores=3))
    assert {line.split()[2] for line in narrow.splitlines()[2:]} == {"decoding"}


def test_the_machines_are_read_from_the_words():
    assert cluster_of("4", 16, 32) == Cluster(16, 4, 32)
    assert cluster_of(None, None, 8) == Cluster(1, 0, 8)
    with pytest.raises(UsageError, match="--gpus all: for a plan give the number of GPUs"):
        cluster_of("all", 1, 8)
