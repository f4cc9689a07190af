"""`--shard auto`: the part of a job, from the variables of its scheduler."""

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.launch.shards import find_shard


def array(number, first=0, last=3, step=1, count=4, **more):
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (number, first, last, step, count)
    found = {f"SLURM_ARRAY_TASK_{name}": str(v) for name, v in zip(names, values, strict=True)}
    return found | more


@pytest.mark.parametrize(
    ("word", "environment", "shard"),
    [
        ("2/5", array(1), "2/5"),
        ("auto", array(3), "3/4"),
        ("auto", array(3, first=1, last=4), "2/4"),
        ("auto", array(10, first=0, last=15, step=5), "2/4"),
        ("auto", array(3, SLURM_PROCID="0", SLURM_NTASKS="1"), "3/4"),
        ("auto", array(1, SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="2"), "2/8"),
        ("auto/4x", array(1), "auto/4x"),
        ("automatic", array(1), "automatic"),
        ("auto", array(3, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2"), "7/8"),
        ("auto", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}, "2/3"),
        ("auto/16", array(7, first=7, last=7, count=1), "7/16"),
        ("auto/16", {"JOB_COMPLETION_INDEX": "15"}, "15/16"),
        ("auto/3", {"SLURM_PROCID": "2"}, "2/3"),
        ("auto/3", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}, "2/3"),
        ("auto/16", array(7, SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1"), "7/16"),
        ("auto/16", array(7, SLURM_PROCID="3", SLURM_STEP_NUM_TASKS="4"), "31/64"),
        ("auto", array(8, first=0, last=8, step=2, count=5), "4/5"),
    ],
)
def test_the_shard_of_a_job_is_read_from_its_variables(word, environment, shard):
    assert find_shard(word, environment) == shard


@pytest.mark.parametrize(
    ("word", "environment", "why"),
    [
        ("auto", {}, "none of SLURM_ARRAY_TASK_ID, SLURM_PROCID and JOB_COMPLETION_INDEX is set"),
        ("auto/4", {}, "this is no job of an array; give --shard i/n"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "no variable says how many pods there are"),
        ("auto", array(7, first=3, last=7, count=2), "this array has 2 jobs between 3 and 7"),
        ("auto", array(0, last=0, step=0, count=1), "this array has 1 jobs between 0 and 0"),
        ("auto", array("x"), "SLURM_ARRAY_TASK_ID is 'x', not a whole number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is '', not a whole number"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "start the command with srun"),
        ("auto/4", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "auto/4: the job has 4 tasks, but"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "nor one of several tasks of srun"),
        ("auto/4", array(4, first=1, last=4), "SLURM_ARRAY_TASK_ID is 4; parts count from 0"),
        ("auto/0", {"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETION_INDEX is 0; parts count from 0"),
        ("auto/4", array(1, JOB_COMPLETION_INDEX="2"), "JOB_COMPLETION_INDEX and SLURM_ARRAY_TASK"),
        ("auto", {"JOB_COMPLETION_INDEX": "2", "SLURM_PROCID": "0"}, "INDEX and SLURM_PROCID are"),
        ("auto/4", {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 tasks"),
        ("auto/4", array(1, SLURM_PROCID="0", SLURM_NTASKS="2"), "start the command with srun"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "two"}, "SLURM_NTASKS is 'two', not a"),
        ("auto", {"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "4"}, "the job is 4; parts count"),
        ("auto", array(5, last=8, step=2, count=5), "with others left out"),
        ("auto", array(3, first=1, last=7), "this array has 4 jobs between 1 and 7"),
    ],
)
def test_a_job_whose_part_is_not_certain_is_refused(word, environment, why):
    with pytest.raises(UsageError, match=why.replace("'", ".")):
        find_shard(word, environment)
