"""Usage of the guest, from the kernel's own counters."""

from __future__ import annotations

import os
import time

from . import room
from .cgroup import Cgroups, read_text


def memory() -> dict[str, int]:
    """/proc/meminfo in bytes by name."""
    values = {}
    for line in read_text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            values[name] = int(number[0]) * 1024
    return values


def read(cgroups: Cgroups) -> dict[str, object]:
    values = memory()
    disk = room.disk()
    return {
        "cpuCount": os.cpu_count() or 1,
        "cpuBusyMs": _cpu_busy_ms(),
        "uptimeMs": round(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000),
        "memoryTotalBytes": values.get("MemTotal", 0),
        "memoryAvailableBytes": values.get("MemAvailable", values.get("MemFree", 0)),
        "userMemoryBytes": cgroups.value("memory.current"),
        "userProcesses": cgroups.value("pids.current"),
        "diskTotalBytes": disk.f_blocks * disk.f_frsize,
        "diskFreeBytes": disk.f_bavail * disk.f_frsize,
        "oomKills": cgroups.memory_events().get("oom_kill"),
    }


def _cpu_busy_ms() -> int:
    """From the first line of /proc/stat: user nice system idle iowait irq softirq steal, in clock ticks."""
    fields = [int(field) for field in read_text("/proc/stat").split("\n", 1)[0].split()[1:]]
    if len(fields) < 8:
        return 0
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) * 1000 // os.sysconf("SC_CLK_TCK")
