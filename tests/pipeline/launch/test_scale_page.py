"""Blocks of docs/scale.md that no other test reads: the Job of Kubernetes."""

import json
import re
import shlex
from pathlib import Path

from tests.pipeline.cli.command_words import take

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"


def test_each_pod_of_the_job_does_its_part_of_as_many_as_there_are():
    job = json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    take(shlex.join(container["command"]))
    assert container["command"][-2:] == ["--shard", f"auto/{spec['completions']}"]
    assert spec["completionMode"] == "Indexed", "else there is no JOB_COMPLETION_INDEX"
