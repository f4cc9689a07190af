"""Write one array of bytes of a clip, segment by segment."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.files import again_if_stale, write_new
from tokenreel.cache.format.byte_arrays import BytesSpec, pack_strings
from tokenreel.cache.format.layout import SEGMENT


class ByteTrack:
    """The bytes of the units of a clip in one array; a file is written when 64 are there.

    Args:
        folder: of the clip that is being written.
        name: of the array.
        num_segments: whole segments that a killed run left in the folder.

    Attributes:
        spec: of the array, with the units appended so far.
        seals: crc32c of each file of the array of checksums.
    """

    def __init__(self, folder: Path, name: str, *, num_segments: int) -> None:
        self._folder, self._open = folder, list[bytes]()
        self.spec = BytesSpec(name, num_segments * SEGMENT)
        files = [folder / self.spec.sums.chunk_file(number) for number in range(num_segments)]
        self.seals = [int.from_bytes(file.read_bytes()[-4:], "little") for file in files]

    @property
    def num_units(self) -> int:
        """Units appended so far, including those of a resumed run."""
        return self.spec.num_units + len(self._open)

    def append(self, strings: Sequence[bytes]) -> None:
        """Append the bytes of units; see ClipWriter.append_bytes."""
        for string in strings:
            self._open.append(bytes(string))
            if len(self._open) == SEGMENT:
                self.close()

    def close(self) -> None:
        """Write the segment that is open, if any."""
        if not self._open:
            return
        number = len(self.seals)
        self.spec = BytesSpec(self.spec.name, self.num_units)
        sums = np.array([crc32c.crc32c(string) for string in self._open], "<u4")
        data = self.spec.sums.chunk_bytes(sums)
        for name, content in (
            (self.spec.chunk_file(number), pack_strings(self._open)),
            (self.spec.sums.chunk_file(number), data),
        ):
            make_room(self._folder, self._folder / name)
            write_new(self._folder / name, content)
        self.seals.append(int.from_bytes(data[-4:], "little"))
        self._open = []


def make_room(folder: Path, path: Path) -> None:
    """Make the folder of a file, unless the clip's folder is gone or was taken over."""
    again_if_stale((folder / "begin.json").stat)
    again_if_stale(partial(path.parent.mkdir, parents=True, exist_ok=True))
