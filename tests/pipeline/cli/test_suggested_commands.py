"""A store that lacks what a recipe needs: the suggested command makes one that has it."""

import re

import pytest
from typer.testing import CliRunner

from tests.pipeline.small import SMALL, extract_sample
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.pipeline.cli.extract import app
from tokenreel.pipeline.phases.training import train_recipe


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the sample extracted, small."""
    path = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        extract_sample("data.val=1", "--out", "first")
    return path


@pytest.mark.parametrize(
    ("change", "fields"),
    [("pooling.blocks=3,11", {"blocks"}), ("data.views=all", {"views"})],
    ids=["blocks", "views"],
)
def test_the_command_makes_the_same_store_but_for_what_it_lacked(
    work, tmp_path, monkeypatch, change, fields
):
    monkeypatch.chdir(work)
    first, second = work / "first", tmp_path / "second"
    with pytest.raises(UsageError) as told:
        train_recipe("sample", [*SMALL, change], store=first, out=tmp_path / "run", device="cpu")
    [command] = re.findall("`extract (run sample-5 .*?) --out STORE`", str(told.value))

    made = CliRunner().invoke(app, [*command.split(), "--out", str(second)])

    assert made.exit_code == 0, made.output
    rows = open_store(first).identity.differences(open_store(second).identity)
    assert {name.partition(".")[0] for name, _, _ in rows} == fields
    train_recipe("sample", [*SMALL, change], store=second, out=tmp_path / "run", device="cpu")
