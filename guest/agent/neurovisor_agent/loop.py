"""One epoll loop with timers. A callback that raises loses its own turn, never the agent."""

from __future__ import annotations

import select
import sys
from _heapq import heappop, heappush
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
# Always reported.
GONE = select.EPOLLHUP | select.EPOLLERR


class Timer:
    __slots__ = ("run", "due")

    def __init__(self, due: float, run: "Callable[[], None]") -> None:
        self.due = due
        self.run: Callable[[], None] | None = run

    def cancel(self) -> None:
        self.run = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        # Numbers unwatched since the last poll: a new file may have one, and the polled event is not its own.
        self._stale: set[int] = set()

    def watch(self, fd: int, events: int, handler: "Callable[[int], None]") -> None:
        """Calls `handler(events)` when `fd` is ready. A second call replaces the first. `events` may be 0."""
        known = fd in self._handlers
        self._handlers[fd] = handler
        if known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Must come before the fd is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._stale.add(fd)

    def after(self, seconds: float, run: "Callable[[], None]") -> Timer:
        timer = Timer(monotonic() + seconds, run)
        heappush(self._timers, timer)
        return timer

    def run(self) -> None:
        while True:
            self._run_timers()
            polled = self._epoll.poll(self._wait_s())
            self._stale.clear()
            for fd, events in polled:
                handler = self._handlers.get(fd)
                # Skipping a stale one loses nothing: a file that is ready is reported again.
                if handler is not None and fd not in self._stale:
                    self._guarded(lambda run=handler, ready=events: run(ready))

    def _wait_s(self) -> float | None:
        while self._timers and self._timers[0].run is None:
            heappop(self._timers)
        return max(0.0, self._timers[0].due - monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0].due <= monotonic():
            run = heappop(self._timers).run
            if run is not None:
                self._guarded(run)

    def _guarded(self, call: "Callable[[], None]") -> None:
        try:
            call()
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
