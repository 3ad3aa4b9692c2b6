"""The account a program runs as, and the environment that every program of a sandbox gets."""

from __future__ import annotations

import os
import pwd

from .request import RequestError

DEFAULT_USER = "user"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_KNOWN_MAX = 64
_known: "dict[tuple, Account]" = {}


class Account:
    __slots__ = ("name", "uid", "gid", "groups", "home")

    def __init__(self, name: str, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home

    def resolve(self, path: str) -> str:
        """An absolute path: relative ones start at the home, `~` is the home."""
        if path == "~" or path.startswith("~/"):
            path = "." + path[1:]
        return os.path.normpath(os.path.join(self.home, path))


def find(name: str | None, in_vm: bool) -> Account:
    """The account named `name`, by default `user`.

    Outside a VM (tests) a missing `user` is the agent's own account, and every home is HOME.

    Raises RequestError `not_found` for an unknown user, `permission_denied` when the agent can't become it.
    """
    wanted = DEFAULT_USER if name is None else name
    try:
        account = look_up(wanted)
    except KeyError:
        if in_vm or name is not None:
            raise RequestError(
                "not_found", f"user {wanted!r} does not exist in the guest"
            ) from None
        account = look_up(pwd.getpwuid(os.geteuid()).pw_name)
    if os.geteuid() not in (0, account.uid):
        raise RequestError("permission_denied", f"the agent may not become user {wanted!r}")
    if in_vm:
        return account
    home = os.environ.get("HOME", account.home)
    return Account(account.name, account.uid, account.gid, account.groups, home)


def look_up(name: str) -> Account:
    """Raises KeyError. Cached until /etc/passwd or /etc/group changes: the system's look-up parses them each time."""
    key = name, _state("/etc/passwd"), _state("/etc/group")
    account = _known.get(key)
    if account is None:
        entry = pwd.getpwnam(name)
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[key] = account
    return account


def _state(path: str) -> tuple[int, int, int]:
    """Differs once the file has been changed or replaced."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_mtime_ns, status.st_size


def base_env(sandbox_env: dict[str, str], inference_port: int) -> dict[str, str]:
    """The same for every user. Points OpenAI clients at the host's models, which speak that API."""
    endpoint = f"http://127.0.0.1:{inference_port}"
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "OPENAI_BASE_URL": f"{endpoint}/v1",
        "OPENAI_API_BASE": f"{endpoint}/v1",
        "OPENAI_API_KEY": "neurovisor",
        **sandbox_env,
    }


def user_env(base: dict[str, str], account: Account, more: dict[str, str]) -> dict[str, str]:
    return {
        **base,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **more,
    }
