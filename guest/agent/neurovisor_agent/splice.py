"""Joins two connections: bytes, ends and back-pressure go through, at most one outbox is held each way."""

from __future__ import annotations

from .connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def splice(a: Connection, b: Connection, ended: "Callable[[], None]") -> None:
    """`ended` is called once, when both are closed."""
    ends = {"eof": 0, "closed": False}

    def one_way(source: Connection, sink: Connection) -> None:
        def data(chunk: bytes) -> None:
            sink.send(chunk)
            if sink.full:
                source.read(False)

        def eof() -> None:
            ends["eof"] += 1
            sink.end_write()
            if ends["eof"] == 2:
                # Both have ended; what is queued is sent before each closes.
                sink.finish()
                source.finish()
                close()

        source.on_data = data
        source.on_eof = eof
        source.on_end = close
        sink.on_drain = lambda: source.read(True)

    def close() -> None:
        if not ends["closed"]:
            ends["closed"] = True
            # A reset of one side leaves the other what it was already sent, then its end.
            a.finish()
            b.finish()
            ended()

    one_way(a, b)
    one_way(b, a)
