"""`make bench-gpu` where there is no GPU, and the sizes that it would try and keep."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tokenreel.fuse.kernels.triton import tuned
from tokenreel.fuse.kernels.triton.tuned import Sizes

ROOT = Path(__file__).parents[3]


def test_without_a_gpu_it_says_so_in_one_line_with_status_2(monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels_gpu.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "benchmarks/kernels_gpu.py"), run_name="__main__")
    assert end.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("bench-gpu: no NVIDIA GPU with Triton here; run it where")
    assert len(err.splitlines()) == 1


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A tuned.json with one GPU in it, in the place of the package's."""
    sizes = Sizes(tokens=128, channels=256, warps=8, stages=3, programs=2)
    (tmp_path / "tuned.json").write_text(
        json.dumps({"NVIDIA H200": {"backward int8 3x768": sizes.as_json()}})
    )
    monkeypatch.setattr(tuned.resources, "files", lambda _: tmp_path)
    tuned.forget()
    yield sizes
    tuned.forget()


def test_measured_sizes_are_used_on_their_gpu_alone(measured):
    assert tuned.sizes_for("NVIDIA H200", "backward", "int8", 3, 768) == measured
    default = tuned.default_sizes("int8", 3, 768)
    for other in (("NVIDIA L4", "backward", "int8", 3), ("NVIDIA H200", "forward", "int8", 3)):
        assert tuned.sizes_for(*other, 768) == default
    assert tuned.sizes_for("NVIDIA H200", "backward", "int8", 2, 768) == default


def test_what_is_kept_in_the_package_can_be_read():
    for cases in json.loads(Path(tuned.__file__).with_name("tuned.json").read_text()).values():
        for key, sizes in cases.items():
            assert key.split()[0] in ("forward", "backward")
            assert Sizes(**sizes).channels in (64, 128, 256)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize(("layers", "width"), [(1, 32), (1, 384), (3, 400), (4, 768)])
def test_default_blocks_cover_the_channels_and_sums_fit_the_registers(dtype, layers, width):
    sizes = tuned.default_sizes(dtype, layers, width)
    assert sizes.channels >= 32
    assert sizes.channels & (sizes.channels - 1) == 0
    blocks = -(-width // sizes.channels)
    assert 8 * layers * blocks * sizes.channels / (32 * sizes.warps) <= 100
