"""The room: the root of programs, files and scripts, in a mount and a pid namespace that init has made.

    agent, outside     its children are in the room's pid namespace from birth (init.c)
      └─ child ─ enter() ─► the room's mounts; then it gives up root, and runs what the environment has

Nothing of the room is loaded by the agent. The two files that it must know (passwd.py) it opens by `open_file`, in which
no link leads out of the room. Outside a VM there is no room: everything here then means this machine.

Root of the sandbox can leave the room, by the children of the agent that enter later. The boundary is the VM.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_NEWNS = 0x00020000
_SYS_MOUNT = 165
_SYS_OPENAT2 = 437
# include/uapi/linux/openat2.h: struct open_how is flags, mode and resolve, each of 8 bytes.
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
# Bytes read of /proc/<pid>/status: NSpid is about in the middle.
_STATUS_BYTES = 4096

# include/uapi/linux/prctl.h, include/uapi/linux/capability.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION_3 = 0x20080522

_setns: "Callable[..., int]"
_syscall: "Callable[..., int]"
_prctl: "Callable[..., int]"
_capset: "Callable[..., int]"
_errno: "Callable[[], int]"
_mounts = -1
_root = -1
_pid = 0
# include/linux/sched.h: PF_EXITING, in the ninth field of /proc/<pid>/stat.
_EXITING = 0x4


def connect(pid: int) -> None:
    """`pid`: the room's process 1. Raises OSError."""
    global _mounts, _root, _pid
    _load()
    _pid = pid
    _mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)


def _load() -> None:
    """Python has setns from 3.12 on, and no openat2. The module below ctypes alone costs the boot less than all of it."""
    global _setns, _syscall, _prctl, _capset, _errno
    import _ctypes

    class Int(_ctypes._SimpleCData):
        _type_ = "i"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Int

    libc = _ctypes.dlopen(None, 0)
    _setns = Function(_ctypes.dlsym(libc, "setns"))
    _syscall = Function(_ctypes.dlsym(libc, "syscall"))
    _prctl = Function(_ctypes.dlsym(libc, "prctl"))
    _capset = Function(_ctypes.dlsym(libc, "capset"))
    _errno = _ctypes.get_errno


def enter() -> None:
    """Moves this child of the agent into the room. It can't leave it again. Raises OSError."""
    if _mounts >= 0 and _setns(_mounts, _CLONE_NEWNS) != 0:
        raise OSError(_errno(), "enter the room")


def enter_late() -> None:
    """The same for a task that has first done something outside; its descriptors were closed. Raises OSError."""
    if _pid == 0:
        return
    fd = os.open(f"/proc/{_pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if _setns(fd, _CLONE_NEWNS) != 0:
        raise OSError(_errno(), "enter the room")


def keep_capabilities() -> None:
    """Lets this child of the agent stay out of reach when it gives up root: it has the agent's memory, with what programs
    of other users were given, and init makes such a process dumpable. The kernel lets no program trace one with more
    capabilities than its own (security/commoncap.c, cap_ptrace_access_check). An exec ends both. Raises OSError.
    """
    if _mounts >= 0 and _prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0:
        raise OSError(_errno(), "keep capabilities")


def drop_capabilities() -> None:
    """The same for a child that executes nothing, after `keep_capabilities`. Raises OSError."""
    if _mounts < 0:
        return
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    if _prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or _capset(header, bytes(24)) != 0:
        raise OSError(_errno(), "drop capabilities")


def open_file(path: str, flags: int) -> int:
    """Opens a file of the room without entering it. Raises OSError."""
    if _root < 0:
        return os.open(path, flags)
    resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
    how = b"".join(number.to_bytes(8, "little") for number in (flags, 0, resolve))
    fd = _syscall(_SYS_OPENAT2, _root, os.fsencode(path), how, len(how))
    if fd < 0:
        number = _errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    texts = [text.encode() + b"\0" for text in (source, target, kind, options)]
    if _syscall(_SYS_MOUNT, *texts[:3], flags, texts[3]) != 0:
        number = _errno()
        raise OSError(number, os.strerror(number))


def disk() -> os.statvfs_result:
    return os.statvfs("/" if _root < 0 else _root)


def is_ending() -> bool:
    """True while the room ends, as by reboot(2) in it: the kernel kills all of its programs, then init ends the VM.

    The host is to hear of the end of the VM, not of killed programs. The agent must go on and reap its children, since
    the end of the room waits for them (kernel/pid_namespace.c, zap_pid_ns_processes).
    """
    if _pid == 0:
        return False
    try:
        with open(f"/proc/{_pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    return int(fields[6]) & _EXITING != 0


def inner_pid(pid: int) -> int | None:
    """The number by which programs in the room, and so the host, know this process. None: it has been reaped.

    From /proc, since the ioctl for it (NS_GET_PID_IN_PIDNS) needs Linux 6.11.
    """
    if _root < 0:
        return pid
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _STATUS_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    # `NSpid:`, then the pid in each namespace, from the agent's inwards.
    line = text.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
    return int(line[-1]) if line else None
