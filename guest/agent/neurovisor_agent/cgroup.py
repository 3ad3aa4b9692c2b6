"""The cgroups (v2) that keep the agent alive whatever user code does.

    /sys/fs/cgroup            the agent and the kernel's own
      └─ user                 all user code: memory.high < memory.max, pids.max
           ├─ zygote          the fork server with its warmed modules
           └─ p<N>            one program with all it started: `cgroup.kill` misses none of them

With `memory.high` below `memory.max` user code is slowed down and the host is told long before the
kernel kills (memory.events). Where the host can give more it holds user code (cgroup.freeze) until it
has, so that no kill comes before. Without a v2 hierarchy everything here is a no-op that says so.
"""

from __future__ import annotations

import os
import sys

from . import limits

ROOT = "/sys/fs/cgroup"


class Cgroups:
    def __init__(self, root: str | None) -> None:
        """`root`: mount point of a v2 hierarchy that is ours; None: there is none."""
        self.user = f"{root}/user" if root is not None else None
        self._count = 0
        # How often limits were set: what was near before may not be so now.
        self.times_limited = 0
        # How long user code may be held when it is near its limit, until other limits come; 0: not at all.
        self.hold_s = 0.0
        self._is_held = False
        self._emptying: list[str] = []
        if root is None or self.user is None:
            return
        try:
            write_text(f"{root}/cgroup.subtree_control", "+memory +pids")
            self._share_cpu(root)
            for path in (self.user, f"{self.user}/zygote"):
                if not os.path.isdir(path):
                    os.mkdir(path)
            os.stat(f"{self.user}/memory.max")
            os.stat(f"{self.user}/pids.max")
        except OSError:
            self.user = None

    def _share_cpu(self, root: str) -> None:
        """The agent then competes with user code as a whole, not with each of a thousand processes."""
        try:
            write_text(f"{root}/cgroup.subtree_control", "+cpu")
        except OSError as error:
            print(f"neurovisor agent: no cpu cgroup: {error}", file=sys.stderr)

    def limit(self, wanted: dict[str, int], memory_total: int) -> None:
        """Sets the user's limits: those of the welcome, else all but what the agent needs."""
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
        self.go_on()

    def hold(self) -> bool:
        """User code stands still until `go_on`, or other limits; only once between those, if they say so."""
        if self.user is None or self.hold_s == 0 or self._is_held:
            return False
        # Nobody who does not answer makes it stand still again.
        self.hold_s = 0.0
        try:
            write_text(f"{self.user}/cgroup.freeze", "1")
        except OSError as error:
            print(f"neurovisor agent: user code is not held: {error}", file=sys.stderr)
            return False
        self._is_held = True
        return True

    def go_on(self) -> None:
        if self._is_held:
            write_text(f"{self.user}/cgroup.freeze", "0")
            self._is_held = False

    def create(self) -> str | None:
        """A cgroup for one program; None when there are none or no more can be made."""
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
        """Removes it now or, while processes of the program live on, at a later release."""
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
    """Moves the calling process."""
    write_text(f"{path}/cgroup.procs", "0")


def kill(path: str) -> bool:
    """SIGKILL to every process in it and below, without a race against fork. Needs Linux 5.14."""
    try:
        write_text(f"{path}/cgroup.kill", "1")
    except OSError:
        return False
    return True


def members(path: str) -> list[int]:
    return [int(pid) for pid in read_text(f"{path}/cgroup.procs").split()]


def numbers(text: str) -> dict[str, int]:
    """`name value` lines."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def read_text(path: str) -> str:
    """The content of a small kernel file; empty when it can't be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def write_text(path: str, text: str) -> None:
    """Into a kernel file that is there. System calls: a text file object costs ten times as much."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
