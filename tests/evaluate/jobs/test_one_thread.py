"""Numbers do not depend on the threads of BLAS: every copy of it that tasks load is limited."""

import os
import subprocess
import sys

CODE = """
from threadpoolctl import threadpool_info, threadpool_limits
from tokenreel.evaluate.jobs.pool import run_jobs
from tokenreel.evaluate.jobs import pool

seen = []

def look(job, limits):
    import sklearn.linear_model  # as progression does, within the task
    seen.extend(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")
    return []

pool.run_job = look
list(run_jobs([None], processes=1, threads=1, memory_bytes=1))
print(sorted(set(seen)), len(seen))
"""


def test_a_task_that_loads_scipy_has_one_thread_of_blas_too():
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert run.stdout.startswith("[1] "), run.stdout
