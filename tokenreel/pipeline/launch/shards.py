"""The part of an extraction that a job of an array does, from the variables of its scheduler."""

import re
from collections.abc import Mapping

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.errors import UsageError

ARRAY, TASK, INDEX = "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX"


def find_shard(word: str, environment: Mapping[str, str]) -> str:
    """The shard "i/n" that a word of --shard means.

    `auto` reads i and n of a SLURM array, of the tasks of `srun`, or of both; `auto/N` takes N for
    the number of pods of an indexed Job of Kubernetes, which has no variable for it, or for that of
    the jobs of the whole array, where a part of it is submitted again.  Tasks of a job of an array
    divide its part.

    Args:
        word: i/n, auto or auto/N.
        environment: variables of the process.

    Raises:
        UsageError: no variable says i or n, two contradict each other, or i is outside [0, n).

    >>> find_shard("3/8", {})
    '3/8'
    >>> find_shard("auto/8", {"JOB_COMPLETION_INDEX": "3"})
    '3/8'
    >>> find_shard("auto", {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"})
    '1/4'
    """
    match = re.fullmatch(r"auto(?:/(\d+))?", word)
    if match is None:
        return word
    if INDEX in environment and (ARRAY in environment or TASK in environment):
        other = ARRAY if ARRAY in environment else TASK
        raise UsageError(
            f"--shard {word}: {INDEX} and {other} are both set, so that this is a pod and a job of "
            "SLURM: unset those of the other, or give --shard i/n"
        )
    if match[1] is not None:
        return _of_known_count(word, environment, int(match[1]))
    if INDEX in environment:
        raise UsageError(
            f"--shard auto: {INDEX} is set, but no variable says how many pods there are: give "
            "--shard auto/N, with the completions of the Job"
        )
    part, parts = 0, 1
    if ARRAY in environment:
        part, parts = _of_array(environment)
    task, tasks = _of_step(environment, is_array=ARRAY in environment)
    if ARRAY not in environment and TASK not in environment:
        raise _nothing(word)
    return _checked("the job", part * tasks + task, parts * tasks)


def _of_known_count(word: str, environment: Mapping[str, str], count: int) -> str:
    """The shard where the word says how many pods, jobs of an array or tasks there are."""
    if ARRAY in environment:
        number = _number(environment, ARRAY)
        _checked(ARRAY, number, count)
        task, tasks = _of_step(environment, is_array=True)
        return _checked("the job", number * tasks + task, count * tasks)
    if TASK in environment:
        _require_srun(word, environment)
        started = environment.get("SLURM_STEP_NUM_TASKS", str(count))
        if started != str(count):
            raise UsageError(
                f"--shard {word}: srun started {started} tasks, so that parts would be left out "
                "or done twice: give --shard auto"
            )
        return _checked(TASK, _number(environment, TASK), count)
    if INDEX in environment:
        return _checked(INDEX, _number(environment, INDEX), count)
    raise _nothing(word)


def _nothing(word: str) -> UsageError:
    return UsageError(
        f"--shard {word}: none of {ARRAY}, {TASK} and {INDEX} is set: this is no job of an array; "
        "give --shard i/n"
    )


def _of_array(environment: Mapping[str, str]) -> tuple[int, int]:
    """Part and parts of a SLURM array of consecutive jobs."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    number, first, last, step, count = (_number(environment, name) for name in names)
    if step < 1 or first + step * (count - 1) != last or number not in range(first, last + 1, step):
        raise UsageError(
            f"--shard auto: this array has {count} jobs between {first} and {last}, with others "
            "left out, so that their parts would not be those of the whole array: give "
            "--shard auto/N, with the jobs of the whole array"
        )
    return (number - first) // step, count


def _of_step(environment: Mapping[str, str], *, is_array: bool) -> tuple[int, int]:
    """Part and parts of the tasks that srun started."""
    if TASK not in environment:
        return 0, 1
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _number(environment, TASK), _number(environment, "SLURM_STEP_NUM_TASKS")
    _require_srun("auto", environment)
    if not is_array:
        raise UsageError(
            "--shard auto: this job is neither of an array nor one of several tasks of srun; give "
            "--shard i/n"
        )
    return 0, 1


def _require_srun(word: str, environment: Mapping[str, str]) -> None:
    """Refuse the batch script of a job of several tasks, which SLURM runs once, as task 0."""
    if "SLURM_STEP_NUM_TASKS" in environment or not environment.get("SLURM_NTASKS"):
        return
    if (tasks := _number(environment, "SLURM_NTASKS")) > 1:
        raise UsageError(
            f"--shard {word}: the job has {tasks} tasks, but this is its batch script: start the "
            "command with srun"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not is_whole_number(text):
        raise UsageError(f"--shard auto: {name} is {text!r}, not a whole number; give --shard i/n")
    return int(text)


def _checked(name: str, part: int, parts: int) -> str:
    if not 0 <= part < parts:
        raise UsageError(f"--shard auto/{parts}: {name} is {part}; parts count from 0 to n - 1")
    return f"{part}/{parts}"
