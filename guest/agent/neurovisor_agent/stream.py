"""The worker's end of its connection, and the error of calls on anything else."""

from __future__ import annotations

from . import limits, wire_json
from .framing import BODY, FrameDecoder, ProtocolError, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator


class LocalError(Exception):
    """A failed call on the file system, as opposed to one on the connection."""

    def __init__(self, error: OSError, what: str) -> None:
        super().__init__(what)
        self.number = error.errno
        self.what = what


class Stream:
    """Blocking reads and writes of the worker's one connection."""

    def __init__(self, sock: "_socket.socket", rest: bytes) -> None:
        self._sock = sock
        self._rest = rest
        self._frames = FrameDecoder((BODY,))

    def answer(self, fields: dict[str, object]) -> None:
        self._sock.sendall(wire_json.dumps({"ok": True, **fields}) + b"\n")

    def send(self, kind: int, payload: bytes) -> None:
        self._sock.sendall(frame(kind, payload))

    def fileno(self) -> int:
        return self._sock.fileno()

    def body(self) -> "Iterator[bytes]":
        """The content from the host, up to the empty frame that ends it. Raises ProtocolError if cut off."""
        data = self._rest
        while True:
            for _kind, payload in self._frames.receive(data):
                if not payload:
                    return
                yield payload
            data = self._sock.recv(limits.FRAME_PAYLOAD_BYTES)
            if not data:
                raise ProtocolError("the content was cut off")
