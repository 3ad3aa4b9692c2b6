"""Reads /etc/passwd and /etc/group, without the C library's look-up.

That one (NSS) loads modules which the image names, into a process that is root. The files belong to the image or to
root of the sandbox, so they are hostile: sizes and counts are bounded, and a line that is not valid does not count.
"""

from __future__ import annotations

import os
import stat

from . import limits, room

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
# The highest 32-bit number is no id: setresuid(2) takes it for "unchanged", and the process would stay root.
_ID_MAX = 2**32 - 2
_ID_DIGITS = 10


class User:
    __slots__ = ("name", "uid", "gid", "home")

    def __init__(self, name: str, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home


class Group:
    __slots__ = ("name", "gid", "members")

    def __init__(self, name: str, gid: int, members: list[str]) -> None:
        self.name = name
        self.gid = gid
        self.members = members


class Accounts:
    """The users and groups of two files. As in the C library, the first of two equal names or ids counts."""

    def __init__(self, passwd: bytes, group: bytes) -> None:
        self._users: dict[str, User] = {}
        self._users_by_id: dict[int, User] = {}
        self._group_ids: dict[str, int] = {}
        self._group_names: dict[int, str] = {}
        self._groups: list[Group] = []
        for user in parse_users(passwd):
            self._users.setdefault(user.name, user)
            self._users_by_id.setdefault(user.uid, user)
        for entry in parse_groups(group):
            self._group_names.setdefault(entry.gid, entry.name)
            self._group_ids.setdefault(entry.name, entry.gid)
            self._groups.append(entry)

    def user(self, name: str) -> User | None:
        return self._users.get(name)

    def user_of(self, uid: int) -> User | None:
        return self._users_by_id.get(uid)

    def user_name(self, uid: int) -> str | None:
        user = self._users_by_id.get(uid)
        return user.name if user is not None else None

    def group_id(self, name: str) -> int | None:
        return self._group_ids.get(name)

    def group_name(self, gid: int) -> str | None:
        return self._group_names.get(gid)

    def groups_of(self, user: User) -> list[int]:
        """The ids of the user's groups, its own first; at most `GROUPS_OF_USER`, and further ones are left out."""
        found = {user.gid: None}
        for group in self._groups:
            if user.name in group.members:
                found[group.gid] = None
        return list(found)[: limits.GROUPS_OF_USER]


_read: "tuple[tuple, Accounts] | None" = None


def accounts() -> Accounts:
    """Those of the image now. Read once until a file changes, since parsing costs more than looking at both."""
    global _read
    state = _state(PASSWD), _state(GROUP)
    if _read is None or _read[0] != state:
        _read = state, Accounts(_content(PASSWD), _content(GROUP))
    return _read[1]


def latest() -> Accounts:
    """What `accounts` returned last: in a child, the state when it was forked."""
    return _read[1] if _read is not None else accounts()


def _state(path: str) -> tuple[int, int, int]:
    """Differs once the file has been changed or replaced."""
    try:
        fd = room.open_file(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return 0, 0, 0
    status = os.fstat(fd)
    os.close(fd)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _content(path: str) -> bytes:
    """The file, empty when it can't be read or is not a regular file.

    At most a byte more than `ACCOUNT_FILE_BYTES`, which shows that the file is longer.
    """
    try:
        fd = room.open_file(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.read(fd, limits.ACCOUNT_FILE_BYTES + 1)
    except OSError:
        return b""
    finally:
        os.close(fd)


def parse_users(text: bytes) -> list[User]:
    """`name:password:uid:gid:comment:home:shell` per line (passwd(5))."""
    users = []
    for fields in _lines(text, 6):
        name, uid, gid, home = fields[0], parse_id(fields[2]), parse_id(fields[3]), fields[5]
        if uid is not None and gid is not None:
            users.append(User(name, uid, gid, home if home.startswith("/") else "/"))
    return users


def parse_groups(text: bytes) -> list[Group]:
    """`name:password:gid:member,member` per line (group(5))."""
    groups = []
    for fields in _lines(text, 4):
        gid = parse_id(fields[2])
        if gid is not None:
            groups.append(Group(fields[0], gid, [name for name in fields[3].split(",") if name]))
    return groups


def _lines(text: bytes, fields_min: int) -> list[list[str]]:
    """The fields of the first `ACCOUNTS` lines that can be an entry: others are comments, or references to NIS."""
    if len(text) > limits.ACCOUNT_FILE_BYTES:
        # Without the line that the limit cuts: its home or its last member would be another one.
        text = text[: text.rfind(b"\n", 0, limits.ACCOUNT_FILE_BYTES + 1) + 1]
    found = []
    for line in text.split(b"\n", 2 * limits.ACCOUNTS)[: 2 * limits.ACCOUNTS]:
        if line[:1] in (b"", b"#", b"+", b"-", b":", b" ", b"\t") or b"\0" in line:
            continue
        fields = line.decode("utf-8", "surrogateescape").split(":")
        if len(fields) >= fields_min:
            found.append(fields)
            if len(found) == limits.ACCOUNTS:
                break
    return found


def parse_id(text: str) -> int | None:
    """A uid or gid. `isdigit` alone also takes digits that int() does not."""
    if not (len(text) <= _ID_DIGITS and text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= _ID_MAX else None
