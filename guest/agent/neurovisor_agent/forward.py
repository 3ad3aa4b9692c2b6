"""Endpoints of user code on the guest's loopback: 11434 is the inference bridge on the host, 11435 its packages.

Bytes pass unread. Above `limits.FORWARDS` connections, new ones wait in the listener's backlog. A client
that connects while the sandbox is being saved or resumed waits until the host is reachable again.
"""

from __future__ import annotations

import _socket
import sys

from . import limits
from .connection import Connection
from .loop import IN, Loop
from .splice import splice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import UnixTransport, VsockTransport

_BACKLOG = 128
_NO_BRIDGE = b'{"error":{"message":"the host does not answer","type":"bridge_unreachable"}}'
_UNREACHABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_NO_BRIDGE), _NO_BRIDGE)
)


class Forwarder:
    def __init__(
        self,
        loop: Loop,
        transport: "VsockTransport | UnixTransport",
        tcp_port: int,
        vsock_port: int,
        is_linked: "Callable[[], bool]",
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._vsock_port = vsock_port
        self._is_linked = is_linked
        self._open = 0
        self._listeners: list[_socket.socket] = []
        # The port on the IPv4 loopback address; given as 0, any free one.
        self.tcp_port = tcp_port
        self._listen(_socket.AF_INET, "127.0.0.1")
        self._listen(_socket.AF_INET6, "::1")

    def _listen(self, family: int, address: str) -> None:
        try:
            listener = _socket.socket(family, _socket.SOCK_STREAM)
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind((address, self.tcp_port))
            listener.listen(_BACKLOG)
        except OSError as error:
            # A kernel without IPv6 is fine; clients use 127.0.0.1.
            if family == _socket.AF_INET:
                print(f"neurovisor agent: no endpoint at {address}:{self.tcp_port}: {error}", file=sys.stderr)
            return
        listener.setblocking(False)
        self.tcp_port = listener.getsockname()[1]
        self._listeners.append(listener)
        self._loop.watch(listener.fileno(), IN, lambda _events: self._accept(listener))

    def _accept(self, listener: "_socket.socket") -> None:
        try:
            fd, _address = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        sock = _socket.socket(fileno=fd)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        client = Connection(self._loop, sock)
        client.read(False)
        self._count(1)
        self._dial(client, 0.0, limits.DIAL_RETRY_MIN_S)

    def _dial(self, client: Connection, waited_s: float, delay_s: float) -> None:
        def dialled(bridge: Connection | None) -> None:
            if client.closed:
                if bridge is not None:
                    bridge.abort()
                self._count(-1)
            elif bridge is not None:
                splice(client, bridge, lambda: self._count(-1))
                client.read(True)
            elif waited_s < self._patience_s():
                again_s = min(delay_s * 2, limits.FORWARD_RETRY_MAX_S)
                self._loop.after(delay_s, lambda: self._dial(client, waited_s + delay_s, again_s))
            else:
                client.send(_UNREACHABLE)
                client.finish()
                self._count(-1)

        self._transport.dial(self._vsock_port, dialled)

    def _patience_s(self) -> float:
        """How long to wait. While the sandbox is saved its clock does not run, so only the time around that counts."""
        return limits.FORWARD_LINKED_S if self._is_linked() else limits.FORWARD_UNLINKED_S

    def _count(self, change: int) -> None:
        was_full = self._open >= limits.FORWARDS
        self._open += change
        full = self._open >= limits.FORWARDS
        if was_full != full:
            for listener in self._listeners:
                self._watch(listener, full)

    def _watch(self, listener: "_socket.socket", full: bool) -> None:
        self._loop.watch(
            listener.fileno(), 0 if full else IN, lambda _events: self._accept(listener)
        )
