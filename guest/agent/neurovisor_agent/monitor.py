"""Reports memory pressure, near OOM and OOM kills to the host.

    memory.events   `high` grows when user code is throttled, long before an OOM kill; `oom_kill`
    memory.pressure (PSI) how long programs stalled on memory; alone it misses fast allocation
    /dev/kmsg       the victim of a kill (victims.py)

The kernel wakes the agent for each. While user code is throttled, its usage is read ten times a second.
"""

from __future__ import annotations

import os
import select
import sys
from time import monotonic

from . import limits
from .cgroup import Cgroups, numbers, read_text
from .loop import Loop, Timer
from .victims import Victim, Victims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Monitor:
    def __init__(
        self, loop: Loop, cgroups: Cgroups, victims: Victims, event: "Callable[..., None]"
    ) -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._victims = victims
        self._event = event
        self._seen: dict[str, int] = {}
        self._named = 0
        self._pressure_at = self._near_at = self._high_at = float("-inf")
        self._quiet_till = float("-inf")
        self._times_limited = cgroups.times_limited
        self._thaw_timer: Timer | None = None
        if cgroups.user is None:
            return
        victims.on_victim = self._killed
        self._fd = os.open(f"{cgroups.user}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self._seen = self._read()
        self._watch()
        self._watch_stalls()

    def _watch(self) -> None:
        # kernfs files that notify raise POLLPRI | POLLERR until they are read again.
        self._loop.watch(self._fd, select.EPOLLPRI, self._changed)

    def _watch_stalls(self) -> None:
        """Sets a PSI trigger (kernel: accounting/psi.rst); it fires at most once per window."""
        try:
            fd = os.open(
                f"{self._cgroups.user}/memory.pressure",
                os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC,
            )
            os.write(fd, b"some %d %d\0" % (limits.STALL_US, limits.STALL_WINDOW_US))
        except OSError as error:
            print(f"neurovisor agent: no PSI trigger: {error}", file=sys.stderr)
            return

        def stalled(_events: int) -> None:
            usage = Usage(self._cgroups)
            # At low usage the stall comes from the disk, or from a limit that a program set itself.
            if usage.is_high:
                self._report_pressure(usage)

        self._loop.watch(fd, select.EPOLLPRI, stalled)

    def _read(self) -> dict[str, int]:
        return numbers(os.pread(self._fd, 4096, 0).decode())

    def _changed(self, _events: int) -> None:
        # A throttled program causes thousands of changes a second: read ten times.
        self._loop.unwatch(self._fd)
        self._loop.after(limits.MEMORY_LOOK_S, self._watch)
        now, before = self._read(), self._seen
        self._seen = now
        if now.get("oom_kill", 0) > before.get("oom_kill", 0):
            # The next near OOM or pressure is a new one: report it at once, when the victim's memory is free.
            self._near_at = self._pressure_at = float("-inf")
            self._quiet_till = monotonic() + limits.VICTIM_WAIT_S
            self._victims.read()
            self._loop.after(limits.VICTIM_WAIT_S, self._report_unnamed)
        if now.get("high", 0) > before.get("high", 0) or now.get("max", 0) > before.get("max", 0):
            self._look()

    def _look(self) -> None:
        usage = Usage(self._cgroups)
        now = monotonic()
        if now < self._quiet_till:
            return
        # After a pause a near OOM is a new one: report it at once.
        if now - self._high_at > limits.PRESSURE_OVER_S:
            self._near_at = float("-inf")
        # After new limits too: the host waits for the report before it adds memory.
        if self._times_limited != self._cgroups.times_limited:
            self._times_limited = self._cgroups.times_limited
            self._near_at = self._pressure_at = float("-inf")
        self._high_at = now
        if usage.is_near_oom:
            if now - self._near_at >= limits.NEAR_OOM_REPEAT_S:
                self._near_at = now
                self._freeze()
                self._event("near_oom", memoryBytes=usage.bytes, limitBytes=usage.limit)
        else:
            self._near_at = float("-inf")
        if usage.is_pressed:
            self._report_pressure(usage)

    def _freeze(self) -> None:
        """Freezes user code until the host has added memory: a busy host takes longer than a fast allocation."""
        hold_s = self._cgroups.hold_s
        if self._cgroups.freeze():
            if self._thaw_timer is not None:
                self._thaw_timer.cancel()
            self._thaw_timer = self._loop.after(hold_s, self._cgroups.thaw)

    def _report_pressure(self, usage: "Usage") -> None:
        now = monotonic()
        if now - self._pressure_at < limits.PRESSURE_HOLD_OFF_S:
            return
        self._pressure_at = now
        some, full = stalls(read_text(f"{self._cgroups.user}/memory.pressure"))
        self._event(
            "pressure",
            memoryBytes=usage.bytes,
            limitBytes=usage.limit,
            highEvents=self._seen.get("high", 0),
            some=some,
            full=full,
        )

    def _killed(self, victim: Victim) -> None:
        self._named += 1
        self._report_kill(victim)

    def _report_unnamed(self) -> None:
        """Reports kills that the kernel counted without naming the victim in its log."""
        self._victims.read()
        kills = self._seen.get("oom_kill", 0)
        if kills > self._named:
            self._named = kills
            self._report_kill(None)

    def _report_kill(self, victim: Victim | None) -> None:
        name = "a process" if victim is None else f"{victim.name} (pid {victim.inner_pid or victim.pid})"
        self._event(
            "oom",
            oomKills=max(self._read().get("oom_kill", 0), self._named),
            victim=victim.to_json() if victim is not None else None,
            detail=f"the guest's OOM killer killed {name}",
        )


class Usage:
    """Memory usage of user code, bytes, and whether unreclaimable memory is close to the limit."""

    def __init__(self, cgroups: Cgroups) -> None:
        stat = numbers(read_text(f"{cgroups.user}/memory.stat"))
        self.bytes = cgroups.value("memory.current") or 0
        self.limit = cgroups.value("memory.max") or 0
        high = cgroups.value("memory.high") or self.limit
        cache = stat.get("file", 0) - stat.get("shmem", 0) + stat.get("slab_reclaimable", 0)
        stuck = self.bytes - cache
        self.is_high = high > 0 and self.bytes >= high * limits.PRESSURE_FRACTION
        self.is_pressed = high > 0 and stuck >= high * limits.PRESSURE_FRACTION
        self.is_near_oom = high > 0 and stuck >= high * limits.NEAR_OOM_FRACTION


def stalls(text: str) -> tuple[float, float]:
    """memory.pressure: percent of the last 10 s in which some, and all, programs stalled."""
    found = {"some": 0.0, "full": 0.0}
    for line in text.splitlines():
        kind, *fields = line.split()
        for field in fields:
            if kind in found and field.startswith("avg10="):
                found[kind] = float(field[6:])
    return found["some"], found["full"]
