"""A stream socket in the loop, with a bounded outbox and explicit pausing of the reader."""

from __future__ import annotations

import _socket

from . import limits
from .loop import GONE, IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Connection:
    """Owns its socket. `on_end` is called once: at the peer's end of file, an error, or `abort`."""

    def __init__(self, loop: Loop, sock: "_socket.socket") -> None:
        self._loop = loop
        self._sock = sock
        sock.setblocking(False)
        self._fd = sock.fileno()
        self._outbox = bytearray()
        self._reading = True
        self._finishing = False
        self._ending_write = False
        self.closed = False
        # The peer has closed its direction.
        self._ended = False
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_end: Callable[[], None] = lambda: None
        # With `on_eof` the peer may close its direction and still receive; without, that ends the connection.
        self.on_eof: Callable[[], None] | None = None
        self._hung_up = False
        # Called when the outbox is below its limit again.
        self.on_drain: Callable[[], None] = lambda: None
        loop.watch(self._fd, IN, self._ready)

    @property
    def full(self) -> bool:
        return len(self._outbox) >= limits.OUTBOX_BYTES

    @property
    def queued(self) -> int:
        return len(self._outbox)

    def send(self, data: bytes) -> None:
        """Queues `data`; the caller stops producing while `full`."""
        if self.closed or self._finishing:
            return
        self._outbox += data
        self._flush()

    def read(self, on: bool) -> None:
        """Pauses or resumes the reader; a paused reader still notices a reset."""
        if on != self._reading and not self.closed:
            self._reading = on
            if self._hung_up and on:
                self._loop.after(0, self._receive)
            self._rearm()

    def end_write(self) -> None:
        """Closes our direction once the outbox is sent; the peer may keep sending."""
        self._ending_write = True
        self._flush()

    def finish(self) -> None:
        """Sends the outbox, then closes our direction; the peer has `LINGER_S` to take it."""
        if self.closed or self._finishing:
            return
        self._finishing = True
        self.on_data = lambda data: None
        self.on_end = self.on_drain = lambda: None
        self.on_eof = None
        # Reading a peer that has closed its direction would close the connection before all is sent.
        if not self._ended:
            self.read(True)
        self._flush()

    def abort(self) -> None:
        """Closes at once and calls `on_end`, unless that was called before."""
        if self.closed:
            return
        self.closed = True
        self._loop.unwatch(self._fd)
        self._sock.close()
        self.on_end()

    def detach(self) -> "_socket.socket":
        """Hands the socket to the caller, for another process. The outbox must be empty."""
        self.closed = True
        self._loop.unwatch(self._fd)
        return self._sock

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if self.closed:
            return
        if events & IN and self._reading:
            self._receive()
        elif events & GONE and self.on_eof is not None and not self._reading:
            # What the peer sent before it hung up is unread, and epoll would report the hang-up forever.
            self._hung_up = True
            self._loop.unwatch(self._fd)
        elif events & GONE:
            self.abort()

    def _receive(self) -> None:
        if self.closed or not self._reading:
            return
        try:
            data = self._take()
        except BlockingIOError:
            return
        except OSError:
            # A reset, for example by an unplugged device: sending is impossible too, so this is no half-close.
            self.abort()
            return
        if data:
            self.on_data(data)
            if self._hung_up:
                self._loop.after(0, self._receive)
        elif self.on_eof is not None:
            self._ended = True
            self._reading = False
            self._rearm()
            self.on_eof()
        else:
            self.abort()

    def _take(self) -> bytes:
        return self._sock.recv(limits.FRAME_PAYLOAD_BYTES)

    def _flush(self) -> None:
        was_full = self.full
        while self._outbox:
            try:
                sent = self._sock.send(self._outbox)
            except BlockingIOError:
                break
            except OSError:
                self.abort()
                return
            del self._outbox[:sent]
        self._rearm()
        if self._finishing and not self._outbox:
            self._end_stream()
        elif self._ending_write and not self._outbox:
            self._ending_write = False
            self._shut()
        elif was_full and not self.full:
            self.on_drain()

    def _end_stream(self) -> None:
        # Closing with unread input would reset the peer before it has read our last bytes.
        self._shut()
        self._loop.after(limits.LINGER_S, self.abort)

    def _shut(self) -> None:
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.abort()

    def _rearm(self) -> None:
        if not self.closed and not self._hung_up:
            wanted = (IN if self._reading else 0) | (OUT if self._outbox else 0)
            self._loop.watch(self._fd, wanted, self._ready)
