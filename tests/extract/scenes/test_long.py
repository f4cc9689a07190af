"""Videos of hours: their scenes and a store of them, in memory that does not grow with length."""

import subprocess
import sys

import pytest

from tests.extract.scenes.films import repeat_film, write_film
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.scene_list import read_scenes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.run import extract_scenes
from tokenreel.extract.scenes.segment import find_scenes

FPS = 25
MINUTE = 60 * FPS
GROWTH_BYTES = 24 << 20  # 270,000 frames at 8 bytes, held up to three times, and some room
PEAK = """
import sys
from pathlib import Path
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
found = find_scenes(Path(sys.argv[1]), cutter_for(ScenesConfig()))
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
frames = sum(scene.num_frames for scene in found)
print(len(found), frames, found[-1].stop_seconds, 1024 * int(peak))
"""


def scenes_of(path):
    """Number of scenes and frames, the end in seconds and peak memory, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    scenes, frames, seconds, peak = done.stdout.split()
    return int(scenes), int(frames), float(seconds), int(peak)


@pytest.mark.slow  # minutes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("lengths", "minutes", "scenes"),
    [
        pytest.param([MINUTE // 5] * 5, 180, 5, id="three hours of scenes"),
        pytest.param([MINUTE], 60, 0, id="an hour without cuts"),
    ],
)
def test_a_film_of_hours_takes_the_memory_of_one_of_minutes(lengths, minutes, scenes, tmp_path):
    minute = write_film(tmp_path / "minute.mp4", lengths, size=(32, 32))
    short = repeat_film(tmp_path / "short.mp4", minute, 3)
    long = repeat_film(tmp_path / "long.mp4", minute, minutes)
    few, many = scenes_of(short), scenes_of(long)
    assert few[:3] == (3 * scenes or 1, 3 * MINUTE, 180.0)
    assert many[:3] == (minutes * scenes or 1, minutes * MINUTE, 60.0 * minutes)
    assert many[3] - few[3] < GROWTH_BYTES
    long.rename(tmp_path / "film.mp4")
    manifest = Manifest("films", tmp_path, (Clip("film", "film.mp4"),))
    extract_scenes(manifest, ScenesConfig(workers=1), tmp_path / "scenes", progress=False)
    assert len(read_scenes(tmp_path / "scenes").scenes["film.mp4"]) == many[0]
    config = ExtractConfig(
        frames=f"scenes:{tmp_path / 'scenes'}", pixels="centre", image_size=32, workers=1
    )
    report = extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert report.exit_status == 0
    store = open_store(tmp_path / "store")
    assert len(store.units("film")) == many[0]
    assert store.units("film")[-1, 1] == 60.0 * minutes


def test_a_film_that_is_repeated_has_its_scenes_as_often(tmp_path):
    minute = write_film(tmp_path / "two.mp4", [15, 20], size=(32, 32))
    found = find_scenes(repeat_film(tmp_path / "six.mp4", minute, 3), cutter_for(ScenesConfig()))
    assert [scene.num_frames for scene in found] == [15, 20] * 3
    assert found[-1].stop_seconds == 4.2
