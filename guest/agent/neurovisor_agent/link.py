"""The control connection: dials the host, says hello, sends events, dials again when it is lost."""

from __future__ import annotations

import sys
import time

from . import hello, identity, limits, wire_json
from .connection import Connection
from .framing import LineDecoder, ProtocolError
from .hello import EventBudget, Refused, Welcome
from .loop import Loop, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import UnixTransport, VsockTransport


class Link:
    """`on_welcome` configures the sandbox and calls back with the problems to report; `on_lost`: the host is lost."""

    def __init__(
        self,
        loop: Loop,
        transport: "VsockTransport | UnixTransport",
        make_hello: "Callable[[], bytes]",
        on_welcome: "Callable[[Welcome, Callable[[list[str]], None]], None]",
        on_lost: "Callable[[], None]",
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._make_hello = make_hello
        self._on_welcome = on_welcome
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._dialling = False
        self._hello = b""
        # A device was plugged or unplugged during a connection, whose end may not be known yet.
        self._changed = False
        self._ready = False
        self._retry: Timer | None = None
        self._retry_s = limits.DIAL_RETRY_MIN_S
        self._deadline: Timer | None = None
        self._budget = EventBudget(limits.EVENTS_BURST, limits.EVENTS_PER_S)

    def start(self) -> None:
        self._transport.on_device(self._device_changed)
        self._dial()

    @property
    def ready(self) -> bool:
        """True from our `ready` until the connection is lost."""
        return self._ready

    def event(self, kind: str, **fields: object) -> None:
        """Sends an event to the host. Drops it without a host, or above the rate."""
        connection = self._connection
        if connection is None or not self._ready:
            return
        if connection.queued > limits.EVENT_QUEUE_BYTES:
            self._budget.dropped += 1
            return
        if not self._budget.take(time.monotonic()):
            return
        if self._budget.dropped:
            dropped, self._budget.dropped = self._budget.dropped, 0
            connection.send(wire_json.dumps({"type": "dropped", "count": dropped}) + b"\n")
        connection.send(wire_json.dumps({"type": kind, **fields}) + b"\n")

    def _device_changed(self) -> None:
        self._retry_s = limits.DIAL_RETRY_MIN_S
        self._changed = True
        self._dial()

    def _dial(self) -> None:
        if self._connection is not None or self._dialling:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._dialling = True
        self._changed = False
        self._transport.dial(limits.PORT_HELLO, self._dialled)

    def _dialled(self, connection: Connection | None) -> None:
        self._dialling = False
        if connection is None:
            self._dial_later()
            self._retry_s = min(self._retry_s * 2, limits.DIAL_RETRY_MAX_S)
            return
        self._connection = connection
        self._ready = False
        decoder = LineDecoder(limits.WELCOME_LINE_BYTES)

        def receive(data: bytes) -> None:
            try:
                got = decoder.receive(data)
                if got is not None:
                    self._welcomed(got[0])
            except ProtocolError as error:
                self._refuse(Refused("invalid_welcome", str(error)))

        connection.on_data = receive
        connection.on_end = self._lost
        # The same at each hello. Made once, so a clone saves the time.
        self._hello = self._hello or self._make_hello() + b"\n"
        connection.send(self._hello)
        self._deadline = self._loop.after(limits.HELLO_WAIT_S, connection.abort)

    def _welcomed(self, line: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        # In protocol 1 the host sends nothing after its welcome.
        connection.on_data = lambda _data: None
        try:
            welcome = hello.parse_welcome(line)
            if self._transport.in_vm:
                identity.apply(welcome)
            self._on_welcome(welcome, lambda problems: self._confirm(connection, problems))
        except Refused as error:
            self._refuse(error)

    def _confirm(self, connection: Connection, problems: list[str]) -> None:
        if self._connection is not connection:
            return  # Lost during the wait for its network card.
        self._ready = True
        self._retry_s = limits.DIAL_RETRY_MIN_S
        if self._deadline is not None:
            self._deadline.cancel()
        connection.send(wire_json.dumps({"type": "ready", "problems": problems}) + b"\n")

    def _refuse(self, error: Refused) -> None:
        print(f"neurovisor agent: hello failed: {error}", file=sys.stderr, flush=True)
        connection = self._connection
        if connection is None:
            return
        connection.send(
            wire_json.dumps({"type": "refused", "code": error.code, "message": str(error)}) + b"\n"
        )
        connection.finish()
        self._retry_s = limits.DIAL_RETRY_MAX_S
        self._lost()

    def _lost(self) -> None:
        """Dials again after the loss of host or device, now and at the next uevent."""
        if self._deadline is not None:
            self._deadline.cancel()
        was_ready, self._ready = self._ready, False
        self._connection = None
        self._dial_later()
        if was_ready:
            self._on_lost()

    def _dial_later(self) -> None:
        delay_s = 0.0 if self._changed else self._retry_s
        self._retry = self._loop.after(delay_s, self._dial)
