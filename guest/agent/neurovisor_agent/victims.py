"""Whom the guest's kernel has killed for want of memory: /dev/kmsg is the only place that names them.

    3,812,5120034,-;Memory cgroup out of memory: Killed process 71 (python3) total-vm:…kB, anon-rss:…kB, …

(kernel: mm/oom_kill.c, Documentation/ABI/testing/dev-kmsg.) Lines that a program wrote to /dev/kmsg have
another facility than the kernel's, and are not believed.
"""

from __future__ import annotations

import os
from time import monotonic

from . import limits
from .cgroup import read_text
from .loop import IN, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RECORD_BYTES = 8192
_MARK = "Killed process "
_RSS = ("anon-rss:", "file-rss:", "shmem-rss:")


class Victim:
    """`group`: its cgroup as the kernel names it, or None when it was gone too soon."""

    __slots__ = ("pid", "name", "rss_bytes", "group", "at")

    def __init__(self, pid: int, name: str, rss_bytes: int, group: str | None, at: float) -> None:
        self.pid = pid
        self.name = name
        self.rss_bytes = rss_bytes
        self.group = group
        self.at = at

    def to_json(self) -> dict[str, object]:
        return {"pid": self.pid, "name": self.name, "rssBytes": self.rss_bytes}


class Victims:
    """The last of them. `told` is called with each as it is seen."""

    def __init__(self, loop: Loop, in_vm: bool) -> None:
        self._last: list[Victim] = []
        self.count = 0
        self.told: Callable[[Victim], None] = lambda victim: None
        self._fd = -1
        if not in_vm:
            return
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            return  # Who was killed is not known then; that somebody was, the cgroup tells.
        loop.watch(self._fd, IN, lambda _events: self.read())

    def read(self) -> None:
        """What has come since; not more at once than a flood may cost."""
        for _ in range(limits.KMSG_RECORDS if self._fd >= 0 else 0):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # EPIPE: records were overwritten before they were read.
            found = parse(record.decode("utf-8", "replace"))
            if found is not None:
                self._note(*found)

    def find(self, group: str | None, pid: int, since: float, killed: bool) -> Victim | None:
        """Of the program that began as `pid` in the cgroup directory `group` at `since`: the last one.

        `killed`: it was ended as the kernel ends a victim, so one whose cgroup is not known may be its own.
        """
        self.read()
        name = group.rsplit("/", 1)[-1] if group is not None else None
        unknown = None
        for victim in reversed(self._last):
            if victim.at < since:
                break
            if victim.pid == pid or (name is not None and victim.group == name):
                return victim
            if killed and victim.group is None and unknown is None:
                unknown = victim
        return unknown

    def _note(self, pid: int, name: str, rss_bytes: int) -> None:
        # It is dying, and there as long as that takes and nobody has waited for it.
        path = read_text(f"/proc/{pid}/cgroup").strip()
        group = path.rsplit("/", 1)[-1] if path else None
        victim = Victim(pid, name, rss_bytes, group, monotonic())
        self.count += 1
        self._last.append(victim)
        del self._last[: -limits.VICTIMS]
        self.told(victim)


def parse(record: str) -> tuple[int, str, int] | None:
    """A record of /dev/kmsg: pid, name and resident bytes of who was killed; None: of something else."""
    head, _, text = record.partition(";")
    priority = head.split(",", 1)[0]
    # Facility 0 is the kernel's; who writes to /dev/kmsg can't have it.
    if not priority.isdigit() or int(priority) > 7:
        return None
    text = text.split("\n", 1)[0]
    at = text.find(_MARK)
    end = text.rfind(") total-vm:")
    if at < 0 or end < at or "ut of memory" not in text[:at]:
        return None
    pid, _, name = text[at + len(_MARK) : end].partition(" (")
    if not pid.isdigit():
        return None
    rss_kib = 0
    for part in text[end:].split():
        for label in _RSS:
            value = part.removeprefix(label).rstrip(",").removesuffix("kB")
            if part.startswith(label) and value.isdigit():
                rss_kib += int(value)
    return int(pid), name[: limits.NAME_CHARACTERS], rss_kib * 1024
