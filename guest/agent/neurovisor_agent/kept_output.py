"""Output of a program that lost its connection through `settle`: the newest bytes of each stream, without I/O."""

from __future__ import annotations

from . import limits


class KeptOutput:
    """Holds at most `limits.KEPT_BYTES` per stream."""

    def __init__(self) -> None:
        self._streams: dict[int, bytearray] = {}

    def add(self, kind: int, data: bytes) -> bool:
        """Adds output of the stream `kind`. False: older output was dropped for it."""
        stream = self._streams.setdefault(kind, bytearray())
        stream += data
        excess = len(stream) - limits.KEPT_BYTES
        if excess <= 0:
            return True
        del stream[:excess]
        return False

    def frames(self) -> list[tuple[int, bytes]]:
        """(kind, payload) of each stream with output; each fits into one frame."""
        return [(kind, bytes(stream)) for kind, stream in self._streams.items() if stream]
