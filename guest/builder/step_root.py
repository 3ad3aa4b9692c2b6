"""The root in which the steps of a Dockerfile run: its place in the VM, its mounts, paths and users."""

import ctypes
import json
import os

STAGE = "/stage"
ROOT = f"{STAGE}/root"
SCRATCH = f"{STAGE}/scratch"
CACHES = f"{STAGE}/caches"
CONTEXT = f"{STAGE}/context"
UNPACKED = f"{STAGE}/unpacked"

DETAIL_CHARACTERS = 1000
ACCOUNT_BYTES = 262144
LINKS_MAX = 40

# <sys/mount.h>, <sched.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 1, 2, 4, 8, 1024
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code

    def verdict(self):
        return json.dumps({"code": self.code, "detail": str(self)[-DETAIL_CHARACTERS:]})


def from_errno(error):
    full = error.errno in (28, 122)
    where = f": {error.filename}" if error.filename else ""
    return Failed("full" if full else "failed", f"{os.strerror(error.errno or 5)}{where}")


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def mount(source, target, kind=None, flags=0, data=None):
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    if libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount {source} on {target}")


def sync():
    """Writes out the disks, which the host copies next."""
    for path in (SCRATCH, CACHES):
        if not os.path.ismount(path):
            continue
        disk = os.open(path, os.O_RDONLY)
        try:
            call("syncfs", disk)
        finally:
            os.close(disk)


# Paths of a root whose links may lead anywhere


def resolve(root, path):
    """Follows links as a process in that root would. Missing components keep their names."""
    done = []
    rest = [part for part in path.split("/") if part]
    links = 0
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        at = "/".join((root, *done, part))
        if os.path.islink(at):
            links += 1
            if links > LINKS_MAX:
                raise Failed("failed", f"too many symbolic links: {path}")
            target = os.readlink(at)
            if target.startswith("/"):
                done = []
            rest = [*target.split("/"), *rest]
            continue
        done.append(part)
    return "/".join((root, *done))


def make_directories(path, owner=None):
    """Returns the directories that it made, the deepest last."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        os.mkdir(each, 0o755)
        if owner is not None:
            os.chown(each, *owner)
    return missing[::-1]


# Users


class User:
    def __init__(self, uid, gid, groups, home):
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


def lines_of(root, name):
    try:
        # If it is a pipe, opening must not wait for a writer.
        descriptor = os.open(resolve(root, name), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            text = (file.read(ACCOUNT_BYTES) or b"").decode("utf-8", "replace")
    except OSError:
        return []
    return [line.split(":") for line in text.split("\n")]


def is_id(text):
    """All ones are "no change" for chown(2) and setresuid(2)."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < (1 << 32) - 1


def user_of(root, text):
    """Looks up `user`, `uid`, `user:group` …; empty means root."""
    name, _, group = text.partition(":")
    name = name or "0"
    entry = next(
        (
            one
            for one in lines_of(root, "/etc/passwd")
            if len(one) >= 6
            and is_id(one[2])
            and is_id(one[3])
            and (one[0] == name or (is_id(name) and int(one[2]) == int(name)))
        ),
        None,
    )
    if entry is None and not is_id(name):
        raise Failed("failed", f"there is no user {name} in /etc/passwd")
    uid = int(entry[2]) if entry else int(name)
    gid = int(entry[3]) if entry else 0
    home = entry[5] if entry else "/"
    groups = [one for one in lines_of(root, "/etc/group") if len(one) >= 4 and is_id(one[2])]
    if is_id(group):
        return User(uid, int(group), [], home)
    if group:
        found = next((int(one[2]) for one in groups if one[0] == group), None)
        if found is None:
            raise Failed("failed", f"there is no group {group} in /etc/group")
        return User(uid, found, [], home)
    own = [int(one[2]) for one in groups if entry and entry[0] in one[3].split(",")]
    return User(uid, gid, own, home)
