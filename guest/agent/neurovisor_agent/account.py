"""The account a program runs as, and the environment that every program of a sandbox gets."""

from __future__ import annotations

import os

from . import passwd
from .request import RequestError

DEFAULT_USER = "user"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
    account = look_up(wanted)
    if account is None:
        if in_vm or name is not None:
            raise RequestError("not_found", f"user {wanted!r} does not exist in the guest")
        account = _own()
    if os.geteuid() not in (0, account.uid):
        raise RequestError("permission_denied", f"the agent may not become user {wanted!r}")
    if in_vm:
        return account
    home = os.environ.get("HOME", account.home)
    return Account(account.name, account.uid, account.gid, account.groups, home)


def look_up(name: str) -> Account | None:
    accounts = passwd.accounts()
    user = accounts.user(name)
    if user is None:
        return None
    return Account(user.name, user.uid, user.gid, accounts.groups_of(user), user.home)


def _own() -> Account:
    """The agent's own account. On machines outside a VM /etc/passwd need not have it."""
    uid = os.geteuid()
    name = passwd.accounts().user_name(uid)
    known = look_up(name) if name is not None else None
    return known or Account(str(uid), uid, os.getegid(), os.getgroups(), "/")


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
