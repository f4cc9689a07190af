"""The commands of docs/scale.md for a bucket, on a server of this machine."""

import re
import shlex
from pathlib import Path

from tests.extract.extraction import write_video
from tests.pipeline.cli.command_words import take
from tests.programs import call

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SMALL = ["backbone=test_vit", "weights=random:0", "image_size=32", "blocks=1", "device=cpu"]


def test_the_commands_of_the_page_run_as_they_are_written(s3, upload, tmp_path):
    section = PAGE.read_text().split("\n## Buckets\n")[1]
    lines = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0].splitlines()
    assert [line.split()[1] for line in lines] == ["run", "store", "train", "store", "store"]
    (tmp_path / "gym").mkdir()
    write_video(tmp_path / "gym" / "a.mp4", 3)
    upload(tmp_path / "gym", "videos/gym")
    places = {"s3://videos/gym": f"{s3}/videos/gym", "s3://lab/stores/gym": f"{s3}/stores/gym"}
    printed = []
    for line in lines:
        program, *words = shlex.split(line)
        if program == "fuse":  # test_an_extraction_and_a_run_on_a_bucket trains
            take(line)
            continue
        words = [places.get(word, word) for word in words] + SMALL * (program == "extract")
        status, output = call(program, *words, cwd=tmp_path)
        assert status == 0, output
        printed.append(output)
    assert "1 committed" in printed[0]
    assert "1 clips, 0 problem(s)" in printed[1]
    assert (tmp_path / "stores/gym/recipe.json").is_file()
