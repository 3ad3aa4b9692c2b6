"""Watches a directory with inotify, in a worker. The standard library has no inotify, so this uses ctypes.

A file operation writes beside its target and renames (files.py). Of that a watch reports what a write in place would be:
`write` of the target, after `create` for a new one; and nothing of the temporary file.
"""

from __future__ import annotations

import ctypes
import os
import select

from . import limits, wire_json
from .account import Account
from .framing import CONTROL
from .request import Request, RequestError
from .stream import LocalError, Stream

# include/uapi/linux/inotify.h
_ATTRIB = 0x4
_CLOSE_WRITE = 0x8
_MOVED_FROM = 0x40
_MOVED_TO = 0x80
_CREATE = 0x100
_DELETE = 0x200
_DELETE_SELF = 0x400
_MODIFY = 0x2
_Q_OVERFLOW = 0x4000
_IGNORED = 0x8000
_ISDIR = 0x40000000
_ONLYDIR = 0x01000000
_MASK = _ATTRIB | _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _ONLYDIR
_NAMES = (
    (_CREATE, "create"),
    (_MODIFY, "write"),
    (_DELETE, "remove"),
    (_MOVED_FROM, "rename"),
    (_MOVED_TO, "create"),
    (_ATTRIB, "chmod"),
)
_HEADER_BYTES = 16
_WRITING = (limits.CREATING, limits.REPLACING)


class _Watch:
    def __init__(self, root: str, recursive: bool) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.inotify_init1(os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._root = root
        self._recursive = recursive
        self._paths: dict[int, str] = {}
        # Targets' events by the rename's cookie (inotify(7)), between the two events of the rename.
        self._renames: dict[int, tuple[str, ...]] = {}
        self._add("")

    def _add(self, relative: str) -> None:
        """Watches a directory, and those below it when recursive, up to the limit."""
        if len(self._paths) >= limits.WATCHES:
            return
        path = os.path.join(self._root, relative) if relative else self._root
        number = self._libc.inotify_add_watch(self.fd, os.fsencode(path), _MASK)
        if number < 0:
            if relative:
                return  # Removed meanwhile, or not readable.
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self._paths[number] = relative
        if not self._recursive:
            return
        try:
            with os.scandir(path) as below:
                for item in below:
                    if item.is_dir(follow_symlinks=False):
                        self._add(os.path.join(relative, item.name))
        except OSError:
            if not relative:
                raise  # Below, it was removed meanwhile, or is not readable.

    def _kinds(self, name: str, mask: int, cookie: int) -> "tuple[str, ...]":
        if name.startswith(".") and name.endswith(_WRITING):
            if mask & _MOVED_FROM:
                self._renames[cookie] = ("create", "write") if name.endswith(limits.CREATING) else ("write",)
                if len(self._renames) > limits.RENAMES:
                    del self._renames[next(iter(self._renames))]
            return ()
        if mask & _MOVED_TO and cookie in self._renames:
            return self._renames.pop(cookie)
        return tuple(kind for bit, kind in _NAMES if mask & bit)[:1]

    def events(self, data: bytes) -> "list[dict[str, str]] | None":
        """The events in `data` as inotify wrote it; None when the watched directory itself was removed."""
        events = []
        at = 0
        while at < len(data):
            number, mask = (
                int.from_bytes(data[at + i : at + i + 4], "little", signed=i == 0) for i in (0, 4)
            )
            cookie, size = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (8, 12))
            name = os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0"))
            at += _HEADER_BYTES + size
            if mask & _Q_OVERFLOW:
                events.append({"type": "overflow", "name": ""})
                continue
            directory = self._paths.get(number)
            if directory is None:
                continue
            if mask & (_DELETE_SELF | _IGNORED):
                self._paths.pop(number, None)
                if directory == "":
                    return None
                continue
            relative = os.path.join(directory, name)
            events += [{"type": kind, "name": relative} for kind in self._kinds(name, mask, cookie)]
            if self._recursive and mask & _ISDIR and mask & (_CREATE | _MOVED_TO):
                self._add(relative)
        return events


def run(_operation: str, request: Request, who: Account, stream: Stream) -> None:
    """Answers once the watch is set, then sends one control frame per event until the host hangs up."""
    path = who.resolve(request.text("path"))
    recursive = request.flag("recursive", False)
    try:
        if not os.path.isdir(path):
            os.lstat(path)
            raise RequestError("invalid_request", f"watch {path!r}: is not a directory")
        watch = _Watch(path, recursive)
    except OSError as error:
        raise LocalError(error, f"watch {path!r}") from error
    stream.answer({})
    poll = select.poll()
    poll.register(watch.fd, select.POLLIN)
    poll.register(stream.fileno(), select.POLLIN)
    while True:
        ready = [fd for fd, _events in poll.poll()]
        if stream.fileno() in ready:
            return  # The host sends nothing during a watch: it has hung up.
        events = watch.events(os.read(watch.fd, 64 * 1024))
        if events is None:
            stream.send(CONTROL, wire_json.dumps({"type": "ended"}))
            return
        for event in events:
            stream.send(CONTROL, wire_json.dumps(event))
