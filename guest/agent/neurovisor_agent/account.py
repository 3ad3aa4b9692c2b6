"""The account a program runs as, and the environment that every program of a sandbox gets."""

from __future__ import annotations

import os

from . import passwd
from .request import RequestError

# The account of the system image.
_DEFAULT_USER = "user"
# What leads a client of Anthropic's API to another server.
_ANTHROPIC_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Environment:
    """The defaults of an environment that is not the system image, as its image's configuration has them.

    `user`: `name`, `uid`, `name:group` and so on; empty: root. `workdir`: absolute, or empty: the user's home.
    """

    __slots__ = ("user", "workdir")

    def __init__(self, user: str, workdir: str) -> None:
        self.user = user
        self.workdir = workdir


class Account:
    """`start`: where relative paths start."""

    __slots__ = ("name", "uid", "gid", "groups", "home", "start")

    def __init__(
        self, name: str, uid: int, gid: int, groups: list[int], home: str, start: str = ""
    ) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home
        self.start = start or home

    def resolve(self, path: str) -> str:
        """An absolute path; `~` is the home."""
        if path == "~" or path.startswith("~/"):
            return os.path.normpath(f"{self.home}/{path[1:]}")
        return os.path.normpath(os.path.join(self.start, path))


def find(name: str | None, in_vm: bool, environment: Environment | None = None) -> Account:
    """The account of `name` (`look_up`), by default that of the environment, in the system image `user`.

    Outside a VM (tests) a missing `user` is the agent's own account, and every home is HOME.

    Raises RequestError `not_found` for an unknown user or group, `permission_denied` when the agent can't become it.
    """
    default = _DEFAULT_USER if environment is None else environment.user or "0"
    wanted = default if name is None else name
    account = look_up(wanted)
    if account is None:
        if in_vm or name is not None:
            raise RequestError("not_found", f"user {wanted!r} does not exist in the guest")
        account = _own()
    if os.geteuid() not in (0, account.uid):
        raise RequestError("permission_denied", f"the agent may not become user {wanted!r}")
    if environment is not None:
        account.start = environment.workdir or account.home
    if in_vm:
        return account
    home = os.environ.get("HOME", account.home)
    return Account(account.name, account.uid, account.gid, account.groups, home)


def look_up(wanted: str) -> Account | None:
    """`name`, `uid`, or either with `:group` or `:gid`, as container images have it.

    A number needs no entry in the account files: then the home is `/` and the group 0. With a group it is the only one.

    None: there is no such user. Raises RequestError `not_found` for a group that does not exist.
    """
    accounts = passwd.accounts()
    name, _, group = wanted.partition(":")
    uid = passwd.parse_id(name)
    user = accounts.user(name)
    if user is None and uid is not None:
        user = accounts.user_of(uid)
    if user is not None:
        account = Account(user.name, user.uid, user.gid, accounts.groups_of(user), user.home)
    elif uid is not None:
        account = Account(str(uid), uid, 0, [0], "/")
    else:
        return None
    if group:
        gid = accounts.group_id(group)
        if gid is None:
            gid = passwd.parse_id(group)
        if gid is None:
            raise RequestError("not_found", f"group {group!r} of user {wanted!r} does not exist in the guest")
        account.gid, account.groups = gid, [gid]
    return account


def _own() -> Account:
    """The agent's own account. On machines outside a VM /etc/passwd need not have it."""
    uid = os.geteuid()
    name = passwd.accounts().user_name(uid)
    known = look_up(name) if name is not None else None
    return known or Account(str(uid), uid, os.getegid(), os.getgroups(), "/")


def base_env(sandbox_env: dict[str, str], inference_port: int) -> dict[str, str]:
    """The same for every user. Points clients of OpenAI's and Anthropic's APIs at the host's models."""
    endpoint = f"http://127.0.0.1:{inference_port}"
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "OPENAI_BASE_URL": f"{endpoint}/v1",
        "OPENAI_API_BASE": f"{endpoint}/v1",
        "OPENAI_API_KEY": "neurovisor",
        **_anthropic_env(sandbox_env, endpoint),
        **sandbox_env,
    }


def _anthropic_env(sandbox_env: dict[str, str], endpoint: str) -> dict[str, str]:
    """A sandbox with a key of its own gets none of them: the key is for another server.

    ANTHROPIC_API_KEY is the one that all clients read. Beside it ANTHROPIC_AUTH_TOKEN would only cause warnings.
    """
    if any(name in sandbox_env for name in _ANTHROPIC_KEYS):
        return {}
    return {"ANTHROPIC_BASE_URL": endpoint, "ANTHROPIC_API_KEY": "neurovisor"}


def user_env(
    base: dict[str, str], account: Account, more: dict[str, str], keeps_home: bool = False
) -> dict[str, str]:
    """`keeps_home`: a HOME in `base` is that of the image, which counts for every user, as in Docker."""
    return {
        **base,
        "HOME": base.get("HOME", account.home) if keeps_home else account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **more,
    }
