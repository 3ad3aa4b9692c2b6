"""A connection that reads a program's output and its end without taking its streams (`logs`)."""

from __future__ import annotations

from . import wire_json
from .framing import CONTROL, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection
    from .kept_output import KeptOutput


class Observer:
    """Never blocks the program. One that falls behind what is kept is cut off, and may ask again from its offset."""

    def __init__(
        self, connection: "Connection", kept: "KeptOutput", positions: "dict[int, int] | None"
    ) -> None:
        """`positions`: the offset of each stream that comes next; None: only the end is of interest."""
        self._connection = connection
        self._kept = kept
        self._positions = positions or {}
        connection.on_drain = self.send

    def send(self) -> None:
        if not self._connection.full:
            self._send_kept()

    def end(self, result: dict[str, object]) -> None:
        """Sends the rest, also to a connection that is full: at most what is kept."""
        self._send_kept()
        self._connection.send(frame(CONTROL, wire_json.dumps({"type": "exit", **result})))
        if not self._connection.closed:
            ended = self._connection.on_end
            self._connection.finish()
            ended()

    def _send_kept(self) -> None:
        for kind, position in self._positions.items():
            if position < self._kept.begin(kind):
                self._connection.abort()
                return
            data = self._kept.since(kind, position)
            self._positions[kind] += len(data)
            if data:
                self._connection.send(frame(kind, data))
