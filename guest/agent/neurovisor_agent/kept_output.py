"""The newest output of one program, with absolute offsets, without I/O: what `attach` and `logs` can still get."""

from __future__ import annotations

from . import limits
from .framing import STDERR, STDOUT


class KeptOutput:
    """Holds at most `limits.KEPT_BYTES` per stream. Offsets count the bytes of a stream since the program's start."""

    def __init__(self) -> None:
        self._tails = {STDOUT: bytearray(), STDERR: bytearray()}
        self.ends = {STDOUT: 0, STDERR: 0}

    def add(self, kind: int, data: bytes) -> None:
        tail = self._tails[kind]
        # First, so that the buffer never grows beyond its limit.
        del tail[: max(0, len(tail) + len(data) - limits.KEPT_BYTES)]
        tail += data[-limits.KEPT_BYTES :]
        self.ends[kind] += len(data)

    def begin(self, kind: int) -> int:
        return self.ends[kind] - len(self._tails[kind])

    def since(self, kind: int, offset: int) -> bytes:
        """The kept output of the stream `kind` from `offset` on; it fits into one frame."""
        return bytes(self._tails[kind][max(0, offset - self.begin(kind)) :])
