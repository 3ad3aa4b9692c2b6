"""Names of signals, and sending to processes that may have exited."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import os


def name(number: int) -> str:
    for known in dir(_signal):
        if known.startswith("SIG") and known[3] != "_" and getattr(_signal, known) == number:
            return known
    return f"SIG{number}"


def send_group(pid: int, number: int, leader: bool) -> None:
    """Signals a process group. `leader`: its leader `pid` is not reaped, so the pid can't be reused yet."""
    try:
        os.killpg(pid, number)
    except OSError:
        # Between fork and setsid the child has no group of its own yet.
        if leader:
            send(pid, number)


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # Exited meanwhile.


def is_in_group(pid: int, group: int) -> bool:
    """Whether the process is in the process group; also True once it has exited."""
    try:
        return os.getpgid(pid) == group
    except OSError:
        return True
