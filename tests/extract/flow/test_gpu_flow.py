"""What the engine does with a GPU, on a pretended one: what it launches, waits for, gives back.

The pretended device computes at once but copies tokens down as late as it may: when the host waits
for the event.  Buffers that are given back are spoilt, as a later batch would.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.extract.extraction import CONFIG
from tests.extract.flow.test_stage import chunk
from tokenreel.cache.codec import codec_from_identity, codec_identity
from tokenreel.cache.errors import MachineError, TokenReelError, UsageError
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.encode.identity import build_identity
from tokenreel.extract.encode.quantiser import Quantiser
from tokenreel.extract.flow.batching import Batcher
from tokenreel.extract.flow.devices import Machine, machine_for, named_failures, pick_device
from tokenreel.extract.flow.engine import Engine
from tokenreel.extract.images.transforms import plan_on_device


@dataclass(frozen=True, slots=True)
class PretendedGpu(Machine):
    @property
    def is_cuda(self):
        return True


class Stream:
    def __init__(self, device=None):
        self.waits = []

    def wait_stream(self, other):
        self.waits.append(other)

    def wait_event(self, event):
        assert event.stream is not None, "waited for before it is recorded"
        self.waits.append(event)


class Cuda:
    """Stands in for torch.cuda, and for page-locked memory."""

    def __init__(self, monkeypatch):
        self.main = self.current = Stream()
        self.late = []  # copies that have been launched
        self.used_by = []  # (tensor, stream) of record_stream
        self.num_records, self.gap_ms = 0, 500.0  # between the end of a batch and the next
        cuda, empty = self, torch.empty

        class Event:
            def __init__(self, enable_timing=False):
                self.stream = None

            def record(self):
                self.stream, self.last = cuda.current, cuda.late[-1:]
                cuda.num_records += 1
                self.number = cuda.num_records

            @torch.inference_mode()
            def synchronize(self):
                assert self.stream is not None
                while self.last and cuda.late:
                    place, values = copy = cuda.late.pop(0)
                    torch.Tensor.copy_(place, values)
                    if copy is self.last[0]:
                        return

            def elapsed_time(self, other):
                assert self.stream is other.stream is cuda.main
                return 1000.0 if other.number == self.number + 1 else cuda.gap_ms

        class Locked(torch.Tensor):
            def copy_(self, values, non_blocking=False):
                assert non_blocking
                assert cuda.current is not cuda.main
                assert any(isinstance(e, Event) for e in cuda.current.waits), "copied too early"
                cuda.late.append((self.as_subclass(torch.Tensor), values))
                return self

        def locked(*shape, pin_memory=False, **options):
            found = empty(*shape, **options)
            return found.fill_(0).as_subclass(Locked) if pin_memory else found

        @contextmanager
        def stream(on):
            before, cuda.current = cuda.current, on
            yield
            cuda.current = before

        monkeypatch.setattr(torch, "empty", locked)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: cuda.current)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda t, s: cuda.used_by.append((t, s)), raising=False
        )


def parts_of(count):
    """Frames of three clips of two sizes, in chunks: windows for the device, and ready images."""
    draw, sizes = np.random.default_rng(0), {0: (48, 64), 1: (60, 40), 2: None}
    identity = build_identity(CONFIG)
    for number in range(count):
        size = sizes[number % 3]
        shape = (1, 3, 32, 32)
        if size is not None:
            shape = plan_on_device(size, identity.transform).window_shape
        part = chunk(number % 3, 5, shape=shape, frame_size=size)
        part.images[:] = draw.integers(0, 256, part.images.shape, np.uint8)
        yield number // 3 * 5, part


def through(machine, *, spoils=False):
    """What each clip's frames come out as: codes, scales and CLS of block 5."""
    shape = backbone_shape(CONFIG.backbone, CONFIG.blocks, CONFIG.image_size)
    backbone = build_backbone(CONFIG.backbone, load_weights(CONFIG.backbone, "random:0"), shape)
    identity = build_identity(CONFIG)
    dim = identity.dim
    calibration = {
        f"{name}/{b}": np.full(dim, 1 + b, np.float32)
        for b in identity.blocks
        for name in ("sd", "mean")
    }
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    quantiser = Quantiser(codec, identity, torch.device("cpu"))
    found = {}

    def emit(rows):
        for name in ("codes/5", "scales/5", "cls/5"):
            values = np.array(rows.views[0][name][rows.rows])
            for place, value in enumerate(values, start=rows.piece.first):
                found[rows.piece.attempt.position, place, name] = value.tobytes()
        for values in rows.views[0].values() if spoils else ():
            values[rows.rows] = 99
        rows.done()

    def release(batch):
        if spoils:
            batch.buffer.fill_(7)
        batcher.release(batch)

    batcher = Batcher(
        batch_frames=machine.batch_frames,
        buffer_bytes=machine.batch_frames * 4 * 3 * 32 * 32,
        mixes=True,
        pins=False,
    )
    with Engine(machine, backbone, quantiser, identity, emit=emit, release=release) as engine:
        for first, part in parts_of(12):
            for batch in batcher.add(part, first=first, wanted=slice(0, None)):
                engine.run.put(batch)
        for batch in batcher.rest():
            engine.run.put(batch)
    return found, engine


@pytest.mark.parametrize(
    ("gap_ms", "idle_seconds", "pads"), [(500.0, 0.5, True), (-5.0, 0.0, False)]
)
def test_simulated_gpu_gives_the_tokens_of_the_cpu(gap_ms, idle_seconds, pads, monkeypatch):
    machine = replace(machine_for(CONFIG), batch_frames=7, mixes=True, pads=pads, resizes=True)
    wanted, _ = through(machine)
    assert len(wanted) == 3 * 20 * 3
    names = machine.__dataclass_fields__
    cuda = Cuda(monkeypatch)
    cuda.gap_ms = gap_ms
    pretended = PretendedGpu(**{name: getattr(machine, name) for name in names})
    found, engine = through(pretended, spoils=True)
    assert found == wanted
    assert cuda.late == []
    assert cuda.used_by, "memory of pixels could be taken while it is read"
    assert all(stream is cuda.main for _, stream in cuda.used_by)
    assert engine.busy_seconds == len(cuda.used_by)  # a second each, by the pretended clock
    assert engine.idle_seconds == idle_seconds * (len(cuda.used_by) - 1)
    assert cuda.main.waits == [engine._uploads] * len(cuda.used_by)


@pytest.mark.parametrize(("words", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_pick_device_always_numbers_a_gpu(words, index, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(words) == torch.device("cuda", index)
    assert torch._utils._get_device_index(pick_device(words)) == index  # set_device asks for it


@pytest.mark.parametrize("words", ["mps", "meta", "gpu"])
def test_pick_device_refuses_other_devices(words):
    with pytest.raises(UsageError, match="auto, cpu, cuda or cuda:N"):
        pick_device(words)


def test_gpu_failures_are_errors_that_say_what_to_do():
    machine = replace(machine_for(CONFIG), batch_frames=128)
    memory = pytest.raises(
        MachineError,
        match=r"not enough memory for a batch of 128 frames; set batch_frames=64.*tried",
    )
    with memory, named_failures(machine):
        raise torch.OutOfMemoryError("tried to allocate 9 GB\nmore lines")
    lost = pytest.raises(TokenReelError, match=r"cpu failed: device lost; .*rerun to resume")
    with lost, named_failures(machine):
        raise torch.AcceleratorError("device lost\nmore lines")


class Wrong(Quantiser):
    """Pretends that what torch.compile makes gives other bytes."""

    def on_device(self, found):
        outputs = super().on_device(found)
        if self._encode is not self.plain:
            outputs["scales/5"] = outputs["scales/5"] * 1.5
        return outputs


def test_quantiser_whose_compiled_bytes_differ_runs_uncompiled(monkeypatch, caplog):
    shape = backbone_shape(CONFIG.backbone, (5,), CONFIG.image_size)
    backbone = build_backbone(CONFIG.backbone, load_weights(CONFIG.backbone, "random:0"), shape)
    found = backbone(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    identity = build_identity(CONFIG)
    calibration = {f"{name}/5": np.ones(identity.dim, np.float32) for name in ("sd", "mean")}
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args))
    same = Quantiser(codec, identity, torch.device("cpu"))
    plain = same._encode
    same.compile(found)
    assert same._encode is not plain
    assert [r for r in caplog.records if r.name.startswith("tokenreel")] == []
    wrong = Wrong(codec, identity, torch.device("cpu"))
    wrong.plain = wrong._encode
    wrong.compile(found)
    assert wrong._encode is wrong.plain
    assert "int8 runs uncompiled and slower: compiled, it gives other bytes" in caplog.text
