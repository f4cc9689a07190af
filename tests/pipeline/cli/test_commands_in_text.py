"""Every command that a docstring, a message, a recipe or a page gives is one that is taken."""

import pytest

from tests.pipeline.cli.command_words import APPS, ClickUsage, commands, make_files, take
from tokenreel.cache.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A folder in which the files are that commands want to exist."""
    path = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        make_files(path)
        yield path


@pytest.mark.parametrize("command", [pytest.param(c, id=c[:150]) for c, _ in commands()])
def test_it_is_taken(command):
    try:
        take(command)
    except ClickUsage as error:
        pytest.fail(f"`{command}`: {error.format_message()}")


def test_there_are_commands_of_every_program_to_check():
    found = [command for command, _ in commands()]
    assert len(found) > 60
    assert "extract run finegym data.classes=288" in found
    for program in APPS:
        assert any(command.startswith(f"{program} ") for command in found)


@pytest.mark.parametrize(
    "command",
    [
        "extract run finegym classes=288",
        "extract run finegym data.class=288",
        "evaluate all --protocol tcc",
        "fuse train sample optim.epoch=3",
        "fuse ablate mvformer-table44",
        "tokenreel store cleanup STORE",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises((ClickUsage, AssertionError, UsageError)):
        take(command)
