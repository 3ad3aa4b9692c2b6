"""Joins two connections: bytes, half-closes and back-pressure pass through, with one outbox each way."""

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
                # Both directions are closed; each outbox is sent before its connection closes.
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
            # After a reset of one side, the other still gets its outbox and then the end.
            a.finish()
            b.finish()
            ended()

    one_way(a, b)
    one_way(b, a)
