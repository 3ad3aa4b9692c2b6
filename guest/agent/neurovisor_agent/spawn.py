"""Turns a freshly forked child into the program of a sandbox's user.

Runs only in the child, of the agent or of the zygote. A failure is reported as `<step> <errno>` on a
close-on-exec pipe; when the pipe closes without a report, the program runs.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import os
import sys
from errno import ENOENT, ENOTDIR
from fcntl import ioctl
from termios import TIOCSCTTY

from . import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The agent has -1000 (never killed), which its children must not inherit.
_OOM_SCORE_OF_USERS = "0"
_FDS_MAX = 1 << 20
_FAILED = 127


class Launch:
    """Everything that determines how a program starts. `script` is for the fork server (script.py)."""

    __slots__ = ("argv", "env", "cwd", "uid", "gid", "groups", "cgroup", "pty", "script")

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        uid: int,
        gid: int,
        groups: list[int],
        cgroup: str | None,
        pty: bool,
        script: dict[str, str] | None,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.cgroup = cgroup
        self.pty = pty
        self.script = script

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: dict) -> "Launch":
        return cls(**value)


def run_child(
    launch: Launch,
    stdio: tuple[int, int, int],
    status_fd: int,
    run: "Callable[[Launch, int], None]",
) -> None:
    """Never returns. `run` executes the program or raises; on success it closes `status_fd`."""
    step = "setup"
    try:
        # Duplicated first, since 0, 1 and 2 may be among the sources.
        for target, fd in enumerate([os.dup(fd) for fd in stdio]):
            os.dup2(fd, target)
        os.closerange(3, status_fd)
        os.closerange(status_fd + 1, _FDS_MAX)
        os.setsid()
        if launch.pty:
            ioctl(0, TIOCSCTTY, 0)
        step = "cgroup"
        if launch.cgroup is not None:
            cgroup.join(launch.cgroup)
        step = "user"
        become(launch.uid, launch.gid, launch.groups)
        step = "cwd"
        os.chdir(launch.cwd)
        step = "exec"
        run(launch, status_fd)
    except OSError as error:
        os.write(status_fd, f"{step} {error.errno or 0}".encode())
    except BaseException as error:
        os.write(status_fd, f"{step} 0 {error}".encode()[:400])
    finally:
        os._exit(_FAILED)


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Drops the agent's rights and its protection from the OOM killer, for good."""
    os.umask(0o022)
    if os.geteuid() == 0:
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(_OOM_SCORE_OF_USERS)
        except OSError:
            pass  # Some test environments have no /proc, and then the kernel's default is the same.
    if uid != os.geteuid() or gid != os.getegid():
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def stop_imports() -> None:
    """Lets this child of the agent import nothing more: it may be root, and the files may be the user's."""
    sys.path.clear()
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"
    ]


def execute(launch: Launch, _status_fd: int) -> None:
    """Replaces the child with the program, with the signal dispositions that programs expect."""
    stop_imports()
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _signal.SIG_DFL)
    exec_in_path(launch.argv, launch.env)


def exec_in_path(argv: list[str], env: dict[str, str]) -> None:
    """Like execvpe(3) with the PATH of `env`; `os.execvpe` imports modules. Raises OSError."""
    name = argv[0]
    if "/" in name:
        os.execve(name, argv, env)
    error = FileNotFoundError(ENOENT, os.strerror(ENOENT))
    for directory in env.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{directory or '.'}/{name}", argv, env)
        except OSError as failed:
            # As a shell does: a file that may not be executed is a better reason than a missing one.
            if failed.errno not in (ENOENT, ENOTDIR) and error.errno == ENOENT:
                error = failed
    raise error
