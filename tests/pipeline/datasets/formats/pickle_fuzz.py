"""Feed mutated and random pickles to the reader: `python -m ...pickle_fuzz COUNT SECONDS SEED`.

Ends after COUNT inputs or SECONDS and prints how many were tried; those of a seed are always the
same.  Each must give plain data or a UsageError of one line, within 5 s of the processor and 1 GiB;
else the seed, the number and the bytes are printed and the status is 1.  A crash ends the process:
the last number on stderr is that of the input.
"""

import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.pipeline.datasets.formats import pickle_inputs
from tests.pipeline.datasets.formats.pickle_inputs import HOSTILE, STOP, sound
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle
from tokenreel.pipeline.datasets.penn_action import penn_action

MOST_MEMORY = 2**30
MOST_SECONDS = 5  # of the processor
WAIT_SECONDS = 120
LONGEST = 20_000  # bytes of what is mutated
NUMBERS = [0, 1, 2, 7, 8, 63, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]
KEPT = [  # inputs that once failed, by hand or by this program
    *sorted((Path(__file__).parent / "hostile").glob("*.pkl")),
]
OPCODES = [getattr(pickle, name) for name in dir(pickle) if name.isupper()]
OPCODES = [code for code in OPCODES if isinstance(code, bytes) and len(code) == 1]


def seeds():
    """What is mutated: sound pickles of each protocol, hostile ones, tensors."""
    start = pickle.PROTO + b"\x04"
    found = [start + program + STOP for program, _ in HOSTILE.values()]
    found += [pickle.dumps(value, protocol) for value in sound().values() for protocol in range(6)]
    found += [start + pickle_inputs.tensor(STORAGE_BYTES, 1, (2, 2), (1, 0)) + STOP] * 6
    found += [path.read_bytes() for path in KEPT]
    entry = {"name": "0001_squat", "video_file": "videos/a.mp4", "frame_label": [0, 1, 2]}
    found += [pickle.dumps(([entry], [[0]]), protocol) for protocol in (0, 2, 4)] * 10
    return [data for data in found if len(data) < LONGEST]


def random_program(rng):
    """Opcodes and fragments in any order, mostly with something on the stack."""
    fragments = [
        lambda: rng.choice(OPCODES),
        lambda: pickle_inputs.text(
            rng.choice(["f8", "O8", "U2", "<", "|", "C", "K", "latin1", "a"])
        ),
        lambda: pickle_inputs.whole(rng.choice(NUMBERS) * rng.choice([1, 1, -1])),
        lambda: pickle_inputs.raw(rng.randbytes(rng.choice([0, 1, 4, 8, 64]))),
        lambda: pickle_inputs.name(rng.choice(NAMES)),
        lambda: rng.choice([pickle.MARK, pickle.TUPLE, pickle.REDUCE, pickle.BUILD, pickle.TUPLE2]),
        lambda: rng.choice([pickle_inputs.put, pickle_inputs.get])(rng.randrange(4)),
        lambda: pickle_inputs.dtype(rng.choice(["f8", "i4", "b1", "U3", "S2", "O"])),
        lambda: pickle_inputs.array(
            [rng.choice(NUMBERS[:6]) for _ in range(rng.randrange(4))],
            pickle_inputs.raw(rng.randbytes(rng.choice([0, 8, 16, 64]))),
            pickle_inputs.dtype(rng.choice(["f8", "u1", "U1", "c16"])),
        ),
        lambda: pickle_inputs.tensor(
            STORAGE_BYTES,
            rng.choice(NUMBERS[:4]),
            *(tuple(rng.choice(NUMBERS) for _ in range(2)) for _ in range(2)),
        ),
    ]
    parts = [rng.choice(fragments)() for _ in range(rng.randrange(1, 30))]
    return b"".join(parts) + STOP


NAMES = [
    *("numpy.dtype", "numpy.ndarray", "collections.OrderedDict", "_codecs.encode", "os.system"),
    *(pickle_inputs.SCALAR, pickle_inputs.RECONSTRUCT, pickle_inputs.FROM_BUFFER),
    *(pickle_inputs.TENSOR, pickle_inputs.STORAGE),
]
STORAGE_BYTES = pickle_inputs.saved_storage([1.0, 2.0, 3.0])


def mutate(data, others, rng):
    """A few changes: bits, opcodes, numbers, cuts, repeats, parts of another."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        at = rng.randrange(len(data))
        change = rng.randrange(7)
        if change == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + 1] = rng.choice(OPCODES)
        elif change == 2:
            width = rng.choice([1, 4, 8])
            data[at : at + width] = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(
                width, "little"
            )
        elif change == 3:
            del data[at : at + rng.randrange(1, 12)]
        elif change == 4:
            part = data[at : at + rng.randrange(1, 40)]
            data[at:at] = part * rng.choice([1, 2, 50])
        elif change == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randrange(1, 60)]
        else:
            data[at:at] = rng.choice(OPCODES)
    return bytes(data)


def make_input(number, seed, originals):
    """The input of a number: always the same."""
    rng = random.Random(f"{seed}/{number}")
    if number < len(originals):
        return originals[number]
    if rng.random() < 0.3:
        return random_program(rng)
    return mutate(rng.choice(originals), originals, rng)


def failure_of(path):
    """What is wrong with how the file is read, as a sentence; "" when nothing is."""
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # others may have the processor
    signal.alarm(WAIT_SECONDS)
    try:
        for read in (lambda: read_plain_pickle(path), lambda: penn_action(path.parent, {})):
            try:
                repr(read())
            except UsageError as error:
                if "\n" in str(error) or len(str(error)) > 1000:
                    return f"a message that is no sentence: {str(error)[:200]!r}"
    except BaseException as error:  # any other end is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def on_alarm(number, frame):
    raise SystemError("took too long")


def main():
    count, seconds, seed = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (used_memory() + MOST_MEMORY, resource.RLIM_INFINITY))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, on_alarm)
    originals, stop, number = seeds(), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.pkl")
        Path(folder, "a.mp4").touch()
        while number < count and time.monotonic() < stop:
            sys.stderr.write(f"\r{number}")
            data = make_input(number, seed, originals)
            path.write_bytes(data)
            failure = failure_of(path)
            if failure:
                sys.stdout.write(f"seed {seed}, number {number}: {failure}\n{data!r}\n")
                return 1
            number += 1
    sys.stdout.write(f"{number} pickles, seed {seed}\n")
    return 0


def used_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
