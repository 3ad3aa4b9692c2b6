"""Lines and frames, without I/O: input cut anywhere gives the same result as input whole.

A frame is 1 byte kind, u32 big-endian payload length, payload (spec/guest-protocol.md, section 4).
"""

from __future__ import annotations

from . import limits

STDIN = 1
STDOUT = 2
STDERR = 3
CONTROL = 4
BODY = 5
HEADER_BYTES = 5


class ProtocolError(Exception):
    """The peer broke the protocol; the connection must be closed."""


def frame(kind: int, payload: bytes) -> bytes:
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


class LineDecoder:
    """Takes bytes until a newline, and returns what follows the line."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def receive(self, data: bytes) -> tuple[bytes, bytes] | None:
        """`(line, rest)` once a line is complete, else None. Raises ProtocolError when the line is too long."""
        searched = len(self._buffer)
        self._buffer += data
        end = self._buffer.find(b"\n", searched)
        if end > self._bytes_max or (end < 0 and len(self._buffer) > self._bytes_max):
            raise ProtocolError(f"a line has more than {self._bytes_max} bytes")
        if end < 0:
            return None
        line, rest = bytes(self._buffer[:end]), bytes(self._buffer[end + 1 :])
        self._buffer.clear()
        return line, rest


class FrameDecoder:
    """Turns bytes into whole frames. Holds at most one frame and one received chunk."""

    def __init__(self, kinds: tuple[int, ...]) -> None:
        self._kinds = kinds
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, in order. Raises ProtocolError."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            kind = self._buffer[start]
            size = int.from_bytes(self._buffer[start + 1 : start + HEADER_BYTES], "big")
            if kind not in self._kinds:
                raise ProtocolError(f"unexpected frame kind {kind}")
            if size > limits.FRAME_PAYLOAD_BYTES:
                raise ProtocolError(
                    f"a frame of {size} bytes is above the limit of {limits.FRAME_PAYLOAD_BYTES}"
                )
            end = start + HEADER_BYTES + size
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[start + HEADER_BYTES : end])))
            start = end
        del self._buffer[:start]
        return frames

    def missing(self, data: bytes) -> int:
        """How many of the leading bytes of `data` belong to the current frame."""
        have = len(self._buffer)
        if have < HEADER_BYTES:
            header = bytes(self._buffer) + data[: HEADER_BYTES - have]
            if len(header) < HEADER_BYTES:
                return len(data)
        else:
            header = bytes(self._buffer[:HEADER_BYTES])
        size = HEADER_BYTES + int.from_bytes(header[1:HEADER_BYTES], "big")
        return min(len(data), size - have)
