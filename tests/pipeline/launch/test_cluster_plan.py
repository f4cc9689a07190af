"""The plan of a cluster is arithmetic that can be done by hand."""

import os
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


def test_each_view_is_computed_and_frames_are_decoded_once_for_all(monkeypatch):
    views = replace(PLAN, config=ExtractConfig(views=2), survey=replace(SURVEY, num_decoded=480))
    found = estimate(views, Cluster(nodes=5, gpus=2, cores=12), 2_000)
    assert found.hours["GPU"] * 3600 == pytest.approx(160 * 3)
    assert found.hours["decoding"] * 3600 == pytest.approx(100 * 3)  # three for each that is kept


def test_processors_decode_and_compute_on_the_same_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})  # that were measured
    on_cores = replace(PLAN, rates=replace(RATES, device="cpu"))
    found = estimate(on_cores, Cluster(nodes=2, gpus=0, cores=12), 2_000)
    # of each node 80,000 frames: 800 s of 4 cores, and 2,000 s of one
    assert found.hours["processors"] * 3600 == pytest.approx((800 * 4 + 2_000) / 12)
    assert found.hours["decoding"] * 3600 == pytest.approx(2_000 / 12)
    assert "GPU" not in found.hours
    unknown = replace(PLAN, rates=replace(RATES, decode_frames=0.0))
    assert estimate(unknown, Cluster(nodes=2, gpus=1, cores=12), 2_000).hours["decoding"] == 0


@pytest.mark.parametrize(
    ("device", "gpus", "told"),
    [
        ("cpu", 4, "the backbone was measured on cpu, not on 4 GPUs: the hours are not those"),
        ("cuda:0", 0, "measured on cuda:0, not on processors"),
        ("cpu", 0, ""),
        ("cuda:0", 2, ""),
    ],
)
def test_hours_of_other_devices_than_the_one_measured_are_told(device, gpus, told):
    plan = replace(PLAN, rates=replace(RATES, device=device))
    table = cluster_table(plan, Cluster(nodes=1, gpus=gpus, cores=8))
    assert told in table
    assert ("was measured" in table) == bool(told)


def test_the_resource_that_limits_is_named_for_each_size():
    fast = replace(PLAN, rates=replace(RATES, write_bytes=1e12, read_bytes=1e12))
    table = cluster_table(fast, Cluster(nodes=1, gpus=1, cores=100))
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1,000", "10,000", "100,000", "1,000,000", "10,000,000"]
    assert {row[2] for row in rows} == {"GPU"}
    assert rows[-1][1] == f"{80 * 10**7 / 100 / 3600:.1f}"
    # a clip: .8 MB of store and .4 MB of video, 70 inodes, 30 objects, 1.5 segments; 100 s of 125
    assert rows[0][3:8] == ["0.0008", "70,000", "30,000", "31,000", "1,500"], "a PUT of each claim"
    assert rows[0][8] == f"{1200 / 800:.1f}"
    large = cluster_table(fast, Cluster(1024, 8, 128)).splitlines()[2].split()
    assert large[1] == "2.7e-05", "80,000 frames over 8,192 GPUs of 100 frames/s"
    narrow = cluster_table(fast, Cluster(nodes=1, gpus=1, cores=3))
    assert {line.split()[2] for line in narrow.splitlines()[2:]} == {"decoding"}


def test_the_machines_are_read_from_the_words():
    assert cluster_of("4", 16, 32) == Cluster(16, 4, 32)
    assert cluster_of("1", None, None) == Cluster(1, 1, len(os.sched_getaffinity(0)))
    assert cluster_of(None, None, 8) == Cluster(1, 0, 8)
    for gpus in ("all", "0", "0,1", "-1", "1025", "9" * 400, "1.5"):
        with pytest.raises(UsageError, match=f"--gpus {gpus}: for a plan give the number of GPUs"):
            cluster_of(gpus, 1, 8)


def test_cores_that_feed_gpus_decode_and_few_of_them_do_what_they_can():
    assert [Cluster(1, gpus, cores).decoders for gpus, cores in ((0, 8), (2, 8))] == [8, 4]
    assert [Cluster(1, gpus, cores).decoders for gpus, cores in ((4, 8), (4, 2), (0, 1))] == [
        4,
        4,
        1,
    ]
