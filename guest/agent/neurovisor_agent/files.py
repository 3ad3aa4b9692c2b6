"""File operations, in a child that has the user's rights (worker.py). Blocking, binary safe.

Only regular files are read and written: a FIFO, a socket or a device could block or have side effects.
"""

from __future__ import annotations

import os
import stat

from . import limits, passwd, wire_json
from .account import Account
from .framing import STDOUT
from .request import Request, RequestError
from .stream import LocalError, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
# Extended attributes of this prefix are a file's metadata.
_METADATA = "user.e2b."


def run(operation: str, request: Request, who: Account, stream: Stream) -> None:
    path = who.resolve(request.text("path"))
    if operation == "read":
        _read(path, request, stream)
    elif operation == "write":
        _write(path, request, _owner(request, who), stream)
    else:
        _change(operation, path, request, who, stream)


def _owner(request: Request, who: Account) -> "Account | None":
    """To whom new files and directories are given; None: the child is that user already."""
    return who if request.flag("asRoot", False) else None


def _make_directories(path: str, owner: "Account | None") -> None:
    """The missing ones among the path and its parents."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        try:
            _make_directory(directory, owner)
        except FileExistsError:
            if not os.path.isdir(directory):  # Otherwise another operation was faster.
                raise


def _make_directory(path: str, owner: "Account | None") -> None:
    os.mkdir(path)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _change(operation: str, path: str, request: Request, who: Account, stream: Stream) -> None:
    target = path
    owner = _owner(request, who)
    try:
        if operation == "list":
            _list(path, request.number("depth", 1, 1, limits.LIST_DEPTH), stream)
            return
        if operation == "move":
            target = who.resolve(request.text("to"))
            _make_directories(os.path.dirname(target), owner)
            os.rename(path, target)
        elif operation == "remove":
            _remove(path)
            stream.answer({})
            return
        elif operation == "mkdir":
            _make_directories(os.path.dirname(path), owner)
            _make_directory(path, owner)
        described = entry(target)
    except OSError as error:
        raise LocalError(error, f"{operation} {path!r}") from error
    stream.answer({"entry": described})


def entry(path: str) -> dict[str, object]:
    """The description of a file; a symbolic link is not followed. Raises OSError."""
    status = os.lstat(path)
    accounts = passwd.latest()
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), "other")
    more: dict[str, object] = {}
    if kind == "symlink":
        more["target"] = _target(path)
    elif metadata := _metadata(path):
        more["metadata"] = metadata
    return {
        "name": os.path.basename(path) or "/",
        "path": path,
        "type": kind,
        "bytes": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "owner": accounts.user_name(status.st_uid) or str(status.st_uid),
        "group": accounts.group_name(status.st_gid) or str(status.st_gid),
        "modifiedMs": status.st_mtime_ns // 1_000_000,
        "symlinkTarget": os.readlink(path) if kind == "symlink" else None,
        **more,
    }


def _target(path: str) -> dict[str, object] | None:
    """Where a symbolic link leads in the end; None: nowhere, or where the user may not look."""
    try:
        resolved = os.path.realpath(path, strict=True)
        mode = os.stat(resolved).st_mode
    except OSError:
        return None
    kind = _TYPES.get(stat.S_IFMT(mode), "other")
    return {"path": resolved, "type": kind, "mode": stat.S_IMODE(mode)}


def _metadata(path: str) -> dict[str, str]:
    """What `write` has set, at most so much that an entry fits into a line; other attributes do not count."""
    found: dict[str, str] = {}
    try:
        room = limits.METADATA_BYTES
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            if not name.startswith(_METADATA):
                continue
            value = os.getxattr(path, name, follow_symlinks=False)
            room -= len(name) + len(value)
            if room < 0:
                break
            found[name[len(_METADATA) :]] = value.decode("utf-8", "replace")
    except OSError:
        pass  # The file system has none, or the file is gone or not readable.
    return found


def _wanted_metadata(request: Request) -> dict[str, str]:
    values = request.env("metadata")
    if sum(len(key) + len(value) for key, value in values.items()) > limits.METADATA_BYTES // 4:
        raise RequestError("invalid_request", "metadata is too large")
    return values


def _open_regular(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        what = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        raise RequestError("invalid_request", f"read {path!r}: {what}")
    return fd


def _read(path: str, request: Request, stream: Stream) -> None:
    """Answers with what `stat` reports, then the content from `offset`, at most `bytesMax`, then an empty frame."""
    offset = request.number("offset", 0, 0, 2**53)
    left = request.number("bytesMax", 2**62, 0, 2**53)
    try:
        fd = _open_regular(path)
        status = os.fstat(fd)
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        # Read before the answer, so that an unreadable file is an error and not a cut stream.
        data = os.read(fd, min(left, limits.CHUNK_BYTES))
    except OSError as error:
        raise LocalError(error, f"read {path!r}") from error
    stream.answer(
        {"bytes": status.st_size, "modifiedMs": status.st_mtime_ns // 1_000_000, "offset": offset}
    )
    while data:
        stream.send(STDOUT, data)
        left -= len(data)
        data = os.read(fd, min(left, limits.CHUNK_BYTES))
    stream.send(STDOUT, b"")


def _write(path: str, request: Request, owner: "Account | None", stream: Stream) -> None:
    """Writes a temporary file beside the target, then renames it: readers see the old content or the new.

    Its name tells watchers (watch.py) what to report of the rename.
    """
    mode = request.number("mode", 0o644, 0, 0o7777)
    metadata = _wanted_metadata(request)
    try:
        if os.path.isdir(path):
            raise RequestError("invalid_request", f"write {path!r}: is a directory")
        _make_directories(os.path.dirname(path), owner)
        if os.path.islink(path):
            path = os.path.realpath(path)
        directory, name = os.path.split(path)
        kind = limits.REPLACING if os.path.exists(path) else limits.CREATING
        temporary = f"{directory}/.{name[:200]}.{os.getpid()}{kind}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(error, f"write {path!r}") from error
    try:
        for chunk in stream.body():
            _write_all(fd, chunk, path)
        try:
            for key, value in metadata.items():
                os.setxattr(fd, _METADATA + key, value.encode("utf-8", "surrogateescape"))
            if owner is not None:
                os.fchown(fd, owner.uid, owner.gid)
            os.fchmod(fd, mode)
            os.rename(temporary, path)
            described = entry(path)
        except OSError as error:
            raise LocalError(error, f"write {path!r}") from error
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    stream.answer({"entry": described})


def _write_all(fd: int, chunk: bytes, path: str) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise LocalError(error, f"write {path!r}") from error


def _list(path: str, depth: int, stream: Stream) -> None:
    """Sends one JSON line per entry in data frames, in lexical order; links are not followed."""
    entries = _walk(path, depth)
    first = next(entries, None)
    stream.answer({})
    lines = bytearray()
    count = 0
    while first is not None:
        count += 1
        lines += wire_json.dumps(first) + b"\n"
        if len(lines) > limits.CHUNK_BYTES:
            stream.send(STDOUT, bytes(lines))
            lines.clear()
        if count >= limits.LIST_ENTRIES:
            lines += wire_json.dumps({"cut": limits.LIST_ENTRIES}) + b"\n"
            break
        first = next(entries, None)
    if lines:
        stream.send(STDOUT, bytes(lines))
    stream.send(STDOUT, b"")


def _walk(path: str, depth: int) -> "Iterator[dict[str, object]]":
    for name in sorted(os.listdir(path)):
        below = os.path.join(path, name)
        try:
            described = entry(below)
        except FileNotFoundError:
            continue  # Removed since the directory was read.
        yield described
        if described["type"] == "directory" and depth > 1:
            try:
                yield from _walk(below, depth - 1)
            except PermissionError:
                continue


def _remove(path: str) -> None:
    """Removes recursively, with the user's rights, so a race reaches only what the user may remove anyway."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for directory, directories, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        for name in directories:
            below = os.path.join(directory, name)
            if os.path.islink(below):
                os.unlink(below)
            else:
                os.rmdir(below)
    os.rmdir(path)
