"""Tells the host of memory pressure and OOM kills: the kernel wakes us when memory.events changes.

`memory.high` fires long before the kernel kills; PSI alone misses fast allocation, so it is not used.
"""

from __future__ import annotations

import os
import select

from . import limits
from .cgroup import Cgroups, numbers, read_text
from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


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
        self._loop.after(limits.PRESSURE_HOLD_OFF_S, self._watch)
        now, before = self._read(), self._seen
        self._seen = now
        if now.get("oom_kill", 0) > before.get("oom_kill", 0):
            self._event(
                "oom",
                oomKills=now["oom_kill"],
                detail="the kernel killed a process of the sandbox for want of memory",
            )
        elif now.get("high", 0) > before.get("high", 0) and self._is_pressed():
            self._event(
                "pressure",
                memoryBytes=self._cgroups.value("memory.current") or 0,
                highEvents=now["high"],
            )

    def _is_pressed(self) -> bool:
        """Most of what is used can't be given back."""
        anon = numbers(read_text(f"{self._cgroups.user}/memory.stat")).get("anon", 0)
        high = self._cgroups.value("memory.high") or 0
        return anon >= high * limits.PRESSURE_ANON_FRACTION
