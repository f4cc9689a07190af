"""Commands of docs/scale.md: each place has one, which is run here or read by its program."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.extract.extraction import write_video
from tests.pipeline.cli.command_words import take
from tests.programs import call
from tokenreel.cache.errors import TERMINATED, ClipFailed, UsageError, WrongIdentity
from tokenreel.extract.signals import GRACE_SECONDS

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
SMALL = ["backbone=test_vit", "weights=random:0", "image_size=96", "blocks=5", "device=cpu"]


def block(heading, number=0, language="sh"):
    """A block below a heading."""
    section = PAGE.read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


def words_of(heading, number=0, line=-1):
    return shlex.split(block(heading, number).splitlines()[line])


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        write_video(tmp_path / "videos" / f"{name}.mp4", 6)
    return tmp_path


def test_the_command_of_the_laptop_makes_a_store(videos):
    program, *words = words_of("## A laptop, one machine")
    status, printed = call(program, *words, *SMALL, cwd=videos)
    assert status == 0, printed
    assert "2 committed" in printed
    assert words_of("## A laptop, one machine", 1) == [program, *words, "--gpus", "all"]


def test_the_command_of_slurm_is_the_script_that_sbatch_takes(videos):
    program, *words = words_of("## SLURM")
    words[words.index("finegym")] = "folder"
    words[words.index("/videos/finegym")] = "videos"
    words.remove("weights=dino.pth")
    status, printed = call(program, *words, "--dry-run", *SMALL, cwd=videos)
    assert status == 0, printed
    for line in ("array=0-15%8", "gpus-per-node=4", "cpus-per-task=32", "time=240", "account=lab"):
        assert f"#SBATCH --{line}\n" in printed


@pytest.mark.parametrize("heading", ["## SLURM", "## Ray", "### Tables"])
def test_the_first_command_of_a_place_is_one_that_its_program_takes(heading):
    words = words_of(heading)
    assert {"--engine"} <= {*words}
    take(shlex.join(words))


def test_a_table_has_a_command_for_ray_too():
    words = words_of("### Tables", 1)
    assert words[words.index("--engine") + 1] == "ray"
    take(shlex.join(words))


def test_the_job_of_slurm_trains_by_the_command_for_several_nodes():
    [command] = [x for x in block("## Training", 1).splitlines() if x.startswith("torchrun")]
    script = block("## Training", 2).splitlines()
    srun, *words = shlex.split(script[-1])
    assert (srun, words) == ("srun", shlex.split(command.replace("HOST:", "$HOST:")))
    nodes = words[words.index("--nnodes") + 1]
    gpus = words[words.index("--nproc-per-node") + 1]
    assert f"--nodes={nodes} --ntasks-per-node=1 --gpus-per-node={gpus} " in script[1]


def test_the_job_file_starts_its_command_by_srun_which_alone_gets_the_signal():
    *_, cores, signal, command = block("## SLURM", 1).splitlines()
    assert signal == "#SBATCH --signal=USR1@120"
    srun, option, count, *words = shlex.split(command)
    assert (srun, option) == ("srun", "--cpus-per-task"), "srun does not inherit it"
    assert f"--cpus-per-task={count} " in cores
    take(shlex.join(words))
    assert words[words.index("--shard") + 1] == "auto"


def test_each_pod_of_the_job_does_its_part_of_as_many_as_there_are():
    job = json.loads(block("## Kubernetes", language="json"))
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    take(shlex.join(container["command"]))
    assert container["command"][-2:] == ["--shard", f"auto/{spec['completions']}"]
    assert spec["completionMode"] == "Indexed", "else there is no JOB_COMPLETION_INDEX"
    assert spec["parallelism"] <= spec["completions"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "backoffLimitPerIndex needs it"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 3 * GRACE_SECONDS
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert failed["onExitCodes"]["containerName"] == container["name"]
    ends = {UsageError.exit_status, ClipFailed.exit_status, WrongIdentity.exit_status}
    assert {*failed["onExitCodes"]["values"]} == ends
    assert TERMINATED not in ends, "it is to be started again"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
