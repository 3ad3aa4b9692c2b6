"""Transports: AF_VSOCK in a guest, unix sockets by Firecracker's convention in tests.

`--unix PATH`: the agent plays both VMM and guest. It listens at PATH for `CONNECT <port>\\n`, answers
`OK <n>\\n`, and dials the host at `PATH_<port>` (Firecracker docs/vsock.md).
"""

from __future__ import annotations

import _socket
import os
from errno import EAGAIN, EINPROGRESS

from . import limits
from .connection import Connection
from .framing import LineDecoder, ProtocolError
from .loop import IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BACKLOG = 128
# include/uapi/linux/netlink.h; multicast group 1 carries the kernel's own messages.
_NETLINK_KOBJECT_UEVENT = 15
_UEVENT_GROUP_KERNEL = 1


class VsockTransport:
    in_vm = True

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def listen(self, accept: "Callable[[Connection, bytes], None]") -> None:
        """Calls `accept(connection, first bytes)` for each connection of the host."""
        listener = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
        listener.bind((_socket.VMADDR_CID_ANY, limits.PORT_OPERATIONS))
        listener.listen(_BACKLOG)
        listener.setblocking(False)

        def ready(_events: int) -> None:
            for sock, address in _accept_all(listener):
                # Only the host: a process of this guest can reach the port over vsock loopback.
                if address[0] == _socket.VMADDR_CID_HOST:
                    accept(Connection(self._loop, sock), b"")
                else:
                    sock.close()

        self._loop.watch(listener.fileno(), IN, ready)

    def dial(self, port: int, done: "Callable[[Connection | None], None]") -> None:
        """Calls `done` with a connection to the host's `port`, or None when it can't be reached now."""
        try:
            sock = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
        except OSError:
            done(None)
            return
        _connect(self._loop, sock, (_socket.VMADDR_CID_HOST, port), done)

    def on_device(self, call: "Callable[[], None]") -> None:
        """Calls `call` when the kernel reports a virtio device: a plug (or unplug) of the vsock device."""
        netlink = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
        netlink.bind((0, _UEVENT_GROUP_KERNEL))
        netlink.setblocking(False)

        def ready(_events: int) -> None:
            virtio = False
            while True:
                try:
                    message = netlink.recv(4096)
                except BlockingIOError:
                    break
                except OSError:
                    # ENOBUFS: messages were lost, and one of them may have been of interest.
                    virtio = True
                    continue
                virtio = virtio or b"\0SUBSYSTEM=virtio\0" in message
            if virtio:
                call()

        self._loop.watch(netlink.fileno(), IN, ready)


class UnixTransport:
    in_vm = False

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._count = 0

    def listen(self, accept: "Callable[[Connection, bytes], None]") -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        if os.path.exists(self._path):
            os.unlink(self._path)
        listener.bind(self._path)
        listener.listen(_BACKLOG)
        listener.setblocking(False)

        def ready(_events: int) -> None:
            for sock, _address in _accept_all(listener):
                self._handshake(Connection(self._loop, sock), accept)

        self._loop.watch(listener.fileno(), IN, ready)

    def _handshake(
        self, connection: Connection, accept: "Callable[[Connection, bytes], None]"
    ) -> None:
        decoder = LineDecoder(limits.HANDSHAKE_LINE_BYTES)

        def receive(data: bytes) -> None:
            try:
                got = decoder.receive(data)
            except ProtocolError:
                connection.abort()
                return
            if got is None:
                return
            line, rest = got
            if line != b"CONNECT %d" % limits.PORT_OPERATIONS:
                connection.abort()
                return
            self._count += 1
            connection.send(b"OK %d\n" % self._count)
            accept(connection, rest)

        connection.on_data = receive

    def dial(self, port: int, done: "Callable[[Connection | None], None]") -> None:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        _connect(self._loop, sock, f"{self._path}_{port}", done)

    def on_device(self, call: "Callable[[], None]") -> None:
        """Unix sockets are always there."""


def _connect(
    loop: Loop,
    sock: "_socket.socket",
    address: "tuple[int, int] | str",
    done: "Callable[[Connection | None], None]",
) -> None:
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == 0:
        done(Connection(loop, sock))
    elif error in (EINPROGRESS, EAGAIN) and isinstance(address, tuple):

        def ready(_events: int) -> None:
            loop.unwatch(sock.fileno())
            if sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) == 0:
                done(Connection(loop, sock))
            else:
                sock.close()
                done(None)

        loop.watch(sock.fileno(), OUT, ready)
    else:
        sock.close()
        done(None)


def _accept_all(listener: "_socket.socket") -> "list[tuple[_socket.socket, tuple[int, int]]]":
    """All waiting connections, at most a backlog; `_socket` has no accept that returns sockets."""
    accepted = []
    for _ in range(_BACKLOG):
        try:
            fd, address = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            break
        accepted.append((_socket.socket(fileno=fd), address))
    return accepted
