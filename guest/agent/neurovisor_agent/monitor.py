"""Tells the host of memory pressure and OOM kills: the kernel wakes us when memory.events changes.

`memory.high` fires long before the kernel kills; PSI alone misses fast allocation, so it is not used.
"""
from __future__ import annotations

import os
import select

from .cgroup import Cgroups, numbers
from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A throttled process raises `high` thousands of times a second.
_HOLD_OFF_S = 0.2


class Monitor:
    def __init__(self, loop: Loop, cgroups: Cgroups, event: "Callable[..., None]") -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._event = event
        self._seen: dict[str, int] = {}
        if cgroups.user is None:
            return
        self._fd = os.open(f"{cgroups.user}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self._seen = self._read()
        self._watch()

    def _watch(self) -> None:
        # Kernel files that notify (kernfs) raise POLLPRI | POLLERR until they are read again.
        self._loop.watch(self._fd, select.EPOLLPRI, self._changed)

    def _read(self) -> dict[str, int]:
        return numbers(os.pread(self._fd, 4096, 0).decode())

    def _changed(self, _events: int) -> None:
        self._loop.unwatch(self._fd)
        self._loop.after(_HOLD_OFF_S, self._watch)
        now, before = self._read(), self._seen
        self._seen = now
        if now.get("oom_kill", 0) > before.get("oom_kill", 0):
            self._event(
                "oom",
                oomKills=now["oom_kill"],
                detail="the kernel killed a process of the sandbox for want of memory",
            )
        elif now.get("high", 0) > before.get("high", 0):
            self._event(
                "pressure",
                memoryBytes=self._cgroups.value("memory.current") or 0,
                highEvents=now["high"],
            )
