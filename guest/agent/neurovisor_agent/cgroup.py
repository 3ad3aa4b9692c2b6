"""The cgroups (v2) that keep the agent alive, whatever user code does.

    /sys/fs/cgroup            the agent and the kernel's own
      ├─ files                file operations (worker.py), without limits: they serve the host
      └─ user                 all user code: memory.high < memory.max, pids.max
           ├─ zygote          the fork server with its warmed modules
           └─ p<N>            one program with all it started: `cgroup.kill` misses none of them

With `memory.high` below `memory.max`, user code is throttled and the host hears of it long before an
OOM kill (memory.events). Where the host can add memory, user code is frozen (cgroup.freeze) until it has,
so that no OOM kill comes first. User code and file operations are also frozen while the disk is saved: it has no journal. Without
a v2 hierarchy everything here does nothing, and reports that.
"""

from __future__ import annotations

import os
import sys
import time

from . import limits

ROOT = "/sys/fs/cgroup"


class Cgroups:
    def __init__(self, root: str | None) -> None:
        """`root`: mount point of a v2 hierarchy for our use; None: there is none."""
        self.user = f"{root}/user" if root is not None else None
        # What each file operation joins.
        self.files = f"{root}/files" if root is not None else None
        self._count = 0
        # How often limits were set: after each time a program may be far from its limit again.
        self.times_limited = 0
        # How long user code may stay frozen when close to OOM, unless limits are set earlier; 0: never frozen.
        self.hold_s = 0.0
        # Why user code is frozen: `memory`, `save` or both.
        self._frozen_for: set[str] = set()
        self._emptying: list[str] = []
        if root is None or self.user is None:
            return
        try:
            write_text(f"{root}/cgroup.subtree_control", "+memory +pids")
            self._share_cpu(root)
            for path in (self.user, f"{self.user}/zygote", f"{root}/files"):
                if not os.path.isdir(path):
                    os.mkdir(path)
            os.stat(f"{self.user}/memory.max")
            os.stat(f"{self.user}/pids.max")
        except OSError:
            self.user = self.files = None

    def _share_cpu(self, root: str) -> None:
        """Makes the agent compete for CPU with user code as a whole, not with each of a thousand processes."""
        try:
            write_text(f"{root}/cgroup.subtree_control", "+cpu")
        except OSError as error:
            print(f"neurovisor agent: no cpu cgroup: {error}", file=sys.stderr)

    def limit(self, wanted: dict[str, int], memory_total: int) -> None:
        """Sets the limits of user code: those of the welcome, by default all that the agent does not need."""
        if self.user is None:
            return
        reserve = max(
            limits.MEMORY_RESERVE_BYTES, int(memory_total * limits.MEMORY_RESERVE_FRACTION)
        )
        memory_max = wanted.get("memoryMaxBytes", max(memory_total - reserve, memory_total // 2))
        memory_high = wanted.get("memoryHighBytes", int(memory_max * limits.MEMORY_HIGH_FRACTION))
        self.times_limited += 1
        write_text(f"{self.user}/memory.max", str(memory_max))
        write_text(f"{self.user}/memory.high", str(memory_high))
        write_text(f"{self.user}/pids.max", str(wanted.get("pidsMax", limits.PIDS)))
        self.hold_s = min(wanted.get("holdMs", 0) / 1000, limits.HOLD_S)
        self.thaw()
        self.thaw_after_save()

    def freeze(self) -> bool:
        """Freezes user code until `thaw` or the next limits, if those allow it; once per setting of limits."""
        if self.user is None or self.hold_s == 0 or "memory" in self._frozen_for:
            return False
        # A host that does not answer must not freeze user code again and again.
        self.hold_s = 0.0
        try:
            self._freeze("memory")
        except OSError as error:
            print(f"neurovisor agent: user code can't be frozen: {error}", file=sys.stderr)
            return False
        return True

    def freeze_to_save(self) -> None:
        """Freezes user code and file operations until `thaw_after_save` or the next limits. Raises OSError.

        `wait_frozen` waits for it.
        """
        if self.user is not None and self.files is not None:
            self._freeze("save")
            write_text(f"{self.files}/cgroup.freeze", "1")

    def wait_frozen(self) -> bool:
        """Blocks until all has stopped. False: not in time; a process that waits for a device may never stop."""
        groups = [path for path in (self.files, self.user) if path is not None]
        for poll in range(limits.FREEZE_POLLS):
            if poll > 0:
                time.sleep(limits.FREEZE_POLL_S)
            groups = [path for path in groups if not _is_frozen(path)]
            if not groups:
                return True
        return False

    def _freeze(self, why: str) -> None:
        write_text(f"{self.user}/cgroup.freeze", "1")
        self._frozen_for.add(why)

    def thaw(self) -> None:
        self._thaw("memory")

    def thaw_after_save(self) -> None:
        if "save" in self._frozen_for:
            write_text(f"{self.files}/cgroup.freeze", "0")
        self._thaw("save")

    def _thaw(self, why: str) -> None:
        if self._frozen_for == {why}:
            write_text(f"{self.user}/cgroup.freeze", "0")
        self._frozen_for.discard(why)

    def create(self) -> str | None:
        """Makes a cgroup for one program. None: there is no hierarchy, or no more cgroups can be made."""
        if self.user is None:
            return None
        self._count += 1
        path = f"{self.user}/p{self._count}"
        try:
            os.mkdir(path)
        except OSError:
            return None
        return path

    def release(self, path: str | None) -> None:
        """Removes the cgroup now or, while it has processes, at a later release."""
        if path is not None:
            self._emptying.append(path)
        self._emptying = [left for left in self._emptying if not _removed(left)]

    def memory_events(self) -> dict[str, int]:
        """`high`, `max`, `oom_kill`, …: counts since boot (kernel: cgroup-v2.rst, memory.events)."""
        if self.user is None:
            return {}
        return numbers(read_text(f"{self.user}/memory.events"))

    def value(self, name: str) -> int | None:
        if self.user is None:
            return None
        text = read_text(f"{self.user}/{name}").strip()
        return int(text) if text.isdigit() else None


def join(path: str) -> None:
    """Moves the calling process into the cgroup."""
    write_text(f"{path}/cgroup.procs", "0")


def kill(path: str) -> bool:
    """Sends SIGKILL to every process in it and below, without a race against fork. Needs Linux 5.14."""
    try:
        write_text(f"{path}/cgroup.kill", "1")
    except OSError:
        return False
    return True


def members(path: str) -> list[int]:
    return [int(pid) for pid in read_text(f"{path}/cgroup.procs").split()]


def numbers(text: str) -> dict[str, int]:
    """The values of `name value` lines."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def read_text(path: str) -> str:
    """The content of a small kernel file; empty when it can't be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _is_frozen(path: str) -> bool:
    return numbers(read_text(f"{path}/cgroup.events")).get("frozen") == 1


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def write_text(path: str, text: str) -> None:
    """Writes to an existing kernel file, by system calls: a text file object costs ten times as much."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
