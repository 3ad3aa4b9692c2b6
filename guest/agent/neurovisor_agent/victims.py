"""Victims of the guest's OOM killer: /dev/kmsg is the only place that names them.

    3,812,5120034,-;Memory cgroup out of memory: Killed process 71 (python3) total-vm:…kB, anon-rss:…kB, …

(kernel: mm/oom_kill.c, Documentation/ABI/testing/dev-kmsg.) A program's own lines in /dev/kmsg have
another facility than the kernel's, and are ignored.
"""

from __future__ import annotations

import os
from time import monotonic

from . import limits, room
from .cgroup import read_text
from .loop import IN, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RECORD_BYTES = 8192
_MARK = "Killed process "
_RSS = ("anon-rss:", "file-rss:", "shmem-rss:")


class Victim:
    """`pid`: as the kernel's log has it. `inner_pid`: as the room has it; None: the process was gone too soon.

    `group`: its cgroup as the kernel names it, None likewise.
    """

    __slots__ = ("pid", "inner_pid", "name", "rss_bytes", "group", "at")

    def __init__(self, pid: int, name: str, rss_bytes: int, group: str | None, at: float) -> None:
        self.pid = pid
        self.inner_pid = room.inner_pid(pid)
        self.name = name
        self.rss_bytes = rss_bytes
        self.group = group
        self.at = at

    def to_json(self) -> dict[str, object]:
        return {"pid": self.inner_pid or self.pid, "name": self.name, "rssBytes": self.rss_bytes}


class Victims:
    """The latest victims. `on_victim` is called with each new one."""

    def __init__(self, loop: Loop, in_vm: bool) -> None:
        self._last: list[Victim] = []
        self.count = 0
        self.on_victim: Callable[[Victim], None] = lambda victim: None
        self._fd = -1
        if not in_vm:
            return
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            return  # Victims have no names then; the cgroup still counts them.
        loop.watch(self._fd, IN, lambda _events: self.read())

    def read(self) -> None:
        """Reads new records, with a bound per call in case of a flood."""
        for _ in range(limits.KMSG_RECORDS if self._fd >= 0 else 0):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # EPIPE: records were overwritten before this read.
            found = parse(record.decode("utf-8", "replace"))
            if found is not None:
                self._note(*found)

    def find(self, group: str | None, pid: int, since: float, killed: bool) -> Victim | None:
        """The last victim of the program that started at `since` as `pid`, in the cgroup directory `group`.

        `killed`: the program itself ended like a victim, so a victim without a known cgroup may be its own.
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
        # The dying process exists until its memory is free and its parent has reaped it.
        path = read_text(f"/proc/{pid}/cgroup").strip()
        group = path.rsplit("/", 1)[-1] if path else None
        victim = Victim(pid, name, rss_bytes, group, monotonic())
        self.count += 1
        self._last.append(victim)
        del self._last[: -limits.VICTIMS]
        self.on_victim(victim)


# A 64-bit number has at most this many.
_DIGITS = 20


def parse(record: str) -> tuple[int, str, int] | None:
    """Pid, name and resident bytes of the victim in a record of /dev/kmsg; None: another record."""
    head, _, text = record.partition(";")
    priority = _number(head.split(",", 1)[0])
    # Facility 0 is the kernel's, and writers to /dev/kmsg can't use it.
    if priority is None or priority > 7:
        return None
    text = text.split("\n", 1)[0]
    at = text.find(_MARK)
    end = text.rfind(") total-vm:")
    if at < 0 or end < at or "ut of memory" not in text[:at]:
        return None
    digits, _, name = text[at + len(_MARK) : end].partition(" (")
    pid = _number(digits)
    if pid is None:
        return None
    rss_kib = 0
    for part in text[end:].split():
        for label in _RSS:
            if part.startswith(label):
                rss_kib += _number(part.removeprefix(label).rstrip(",").removesuffix("kB")) or 0
    return pid, name[: limits.NAME_CHARACTERS], rss_kib * 1024


def _number(text: str) -> int | None:
    """`isdigit` alone also takes digits that int() does not, such as a superscript."""
    return int(text) if len(text) <= _DIGITS and text.isascii() and text.isdigit() else None
