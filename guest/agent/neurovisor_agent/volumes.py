"""Mounts the volumes of a welcome: disks that outlive the sandbox, found by their serial numbers.

    wanted ─► all its disks are there (a clone's are plugged while it starts) ─► child: open the disk ─► room ─► mount

Loaded only in a sandbox with volumes. Their file systems may be hostile: only a child of this guest touches them.
"""

from __future__ import annotations

import os
from fcntl import ioctl

from . import limits, room
from .loop import Loop
from .request import Request, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCKS = "/sys/block"
# include/uapi/linux/mount.h
_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_NOATIME = 0x400
# include/uapi/linux/fs.h: FIFREEZE
_FREEZE = 0xC0045877
# A volume that nobody has written to: mkfs made its root for root alone.
_NEW_MODE = 0o755
_NEW_ENTRIES = ["lost+found"]
PROBLEM = "volume "


class Volume:
    """One checked entry of `volumes`."""

    __slots__ = ("serial", "path", "read_only")

    def __init__(self, fields: object) -> None:
        """Raises RequestError `invalid_request`."""
        request = Request(fields)
        self.serial = request.text("serial")
        self.path = request.text("path")
        self.read_only = request.flag("readOnly", False)
        if not self.path.startswith("/"):
            raise RequestError("invalid_request", "path of a volume is not absolute")


def parse(value: object) -> list[Volume]:
    """Raises RequestError."""
    if not isinstance(value, list) or len(value) > limits.VOLUMES:
        raise RequestError("invalid_request", f"volumes is not a list of at most {limits.VOLUMES}")
    return [Volume(one) for one in value]


def mount_all(loop: Loop, volumes: list[Volume], done: "Callable[[str | None], None]") -> None:
    """Calls `done` with the problem, in a sentence that begins with `PROBLEM`, or None; within `VOLUMES_S`."""
    from .worker import start_task

    def look(left_s: float) -> None:
        disks = _disks()
        missing = [volume for volume in volumes if volume.serial not in disks]
        if missing and left_s > 0:
            loop.after(limits.CARD_LOOK_S, lambda: look(left_s - limits.CARD_LOOK_S))
        elif missing:
            done(f"{PROBLEM}{missing[0].path!r}: its disk did not appear")
        else:
            mount = lambda: _mount_all(volumes, disks)  # noqa: E731
            start_task(loop, mount, ended, limits.VOLUME_MOUNT_S)

    def ended(problem: str | None) -> None:
        is_own = problem is None or problem.startswith(PROBLEM)
        done(problem if is_own else f"{PROBLEM}could not be mounted: {problem}")

    look(limits.VOLUME_WAIT_S)


def freeze(paths: list[str]) -> str | None:
    """Leaves the file systems clean for whoever attaches them next: all is written, no journal to replay.

    Runs in a child. Writes then wait for ever: only for a VM that ends.
    """
    room.enter_late()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                ioctl(fd, _FREEZE, 0)
            finally:
                os.close(fd)
        except OSError as error:
            return f"{PROBLEM}{path!r} could not be frozen: {error}"
    return None


def _disks() -> dict[str, str]:
    """Names of the disks by serial number."""
    found = {}
    for name in os.listdir(_BLOCKS):
        try:
            with open(f"{_BLOCKS}/{name}/serial") as file:
                found[file.read().strip()] = name
        except OSError:
            continue  # Not a virtio disk.
    return found


def _mount_all(volumes: list[Volume], disks: dict[str, str]) -> str | None:
    """Runs in a child. The room's /dev may lack the disks, so they are opened before."""
    opened = [(volume, os.open(f"/dev/{disks[volume.serial]}", os.O_RDONLY)) for volume in volumes]
    room.enter_late()
    for volume, disk in opened:
        try:
            _mount(volume, f"/proc/self/fd/{disk}")
        except OSError as error:
            return f"{PROBLEM}{volume.path!r} could not be mounted: {error}"
    return None


def _mount(volume: Volume, source: str) -> None:
    os.makedirs(volume.path, exist_ok=True)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOATIME | (_MS_RDONLY if volume.read_only else 0)
    # Whatever its superblock says.
    room.mount(source, volume.path, "ext4", flags, "errors=remount-ro")
    if volume.read_only:
        return
    status = os.stat(volume.path)
    with os.scandir(volume.path) as entries:
        names = [entry.name for entry, _at in zip(entries, range(2))]
    if status.st_uid == 0 and status.st_mode & 0o7777 == _NEW_MODE and names == _NEW_ENTRIES:
        # The users of images differ. The sandbox is the boundary.
        os.chmod(volume.path, 0o1777)
