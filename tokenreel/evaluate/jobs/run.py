"""From a job to its rows; nothing here writes to disk."""

from dataclasses import replace

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.data.clips import (
    CHANGED,
    ActionData,
    FileChanged,
    load_action,
    load_screened,
)
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.jobs.plan import GROUP, Job
from tokenreel.evaluate.protocol import TASKS
from tokenreel.evaluate.tasks.task import Limits, Request, Task, load_task


def run_job(job: Job, limits: Limits) -> list[Score]:
    """The rows of a job; unusable data, or a plugin that fails, gives rows with the reason.

    Those of a file that changed since it was planned end in CHANGED.
    """
    blank = job.blank
    try:
        task = load_task(job.kind)
        data, blank = _data_of(task, job)
        request = Request(job.settings, job.rows, blank, limits)
        if job.is_group:
            rows = _of_group(task, job, request)
        else:
            why, status = task.missing(data)
            if why:
                return _without_value(job, blank, why, status)
            rows = task.compute(data, request)
        names = [row.task for row in rows]
        if sorted(names) != sorted(job.rows.names):
            raise ValueError(f"rows {', '.join(names)} instead of {', '.join(job.rows.names)}")
    except (EmbeddingFileError, OSError) as error:  # read before, when it was planned
        said = str(error) if isinstance(error, FileChanged) else f"{error}: {job.path} {CHANGED}"
        return _without_value(job, blank, said, "problem")
    except (ValueError, np.linalg.LinAlgError, ModuleNotFoundError) as error:
        return _without_value(job, blank, str(error), "problem")
    except Exception as error:
        if job.kind in TASKS.ours:
            raise
        note = f"the plugin failed: {type(error).__name__}: {error}"
        return _without_value(job, blank, note, "problem")
    return rows


def _data_of(task: Task, job: Job) -> tuple[ActionData | EmbeddingFile, Score]:
    """What the metric is computed from, and the row with its counts."""
    file = load_screened(job.path, job.sha256).file
    if job.is_group:
        clips = _group(file, job)
    elif task.scope == "file":
        clips = [clip for clip in file.clips if clip.split == job.blank.split]
    else:
        data = load_action(job.path, job.sha256, job.blank.action)
        val = data.val
        counts = (len(val.labels), val.num_frames, val.num_dropped)
        return data, _counted(job.blank, *counts)
    return file, _counted(job.blank, len(clips), sum(clip.num_frames for clip in clips), 0)


def _counted(blank: Score, clips: int, frames: int, dropped: int) -> Score:
    return replace(blank, num_clips=clips, num_frames=frames, num_dropped=dropped)


def _group(file: EmbeddingFile, job: Job) -> list[EmbeddedClip]:
    group = job.blank.action.removeprefix(GROUP)
    return [clip for clip in file.clips if clip.group == group]


def _of_group(task: Task, job: Job, request: Request) -> list[Score]:
    """The rows of clips without labels that show the same video."""
    if task.unlabelled is None:
        raise ValueError(f"{job.kind} needs labels")
    file = load_screened(job.path, job.sha256).file
    return task.unlabelled([clip.embeddings for clip in _group(file, job)], request)


def _without_value(job: Job, blank: Score, note: str, status: str) -> list[Score]:
    return [replace(blank, task=name, note=note, status=status) for name in job.rows.names]
