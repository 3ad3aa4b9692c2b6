"""Turns a freshly forked child into the program of a sandbox's user.

Runs only in the child, of the agent or of the fork server. A failure is reported as `<step> <errno>` on a
close-on-exec pipe; when the pipe closes without a report, the program runs.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import os
import stat
import sys
from errno import ENOENT, ENOTDIR
from fcntl import ioctl
from termios import TIOCSCTTY

from . import cgroup, room, wire_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The agent has -1000 (never killed), which its children must not inherit.
_OOM_SCORE_OF_USERS = "0"
_FDS_MAX = 1 << 20
# Exit status of a child that did not become a program.
FAILED = 127
# Entry point of a Python for scripts.
_INTERPRETER = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/interpreter.py"


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

    def summary(self) -> list[str]:
        """The begin of the arguments, to describe the program."""
        return [part[:200] for part in self.argv[:8]]

    def forget(self) -> None:
        """Drops what only a start needs, which may be large, of a program that has ended."""
        self.argv, self.env, self.script = self.summary(), {}, None

    def write(self) -> int:
        """A memfd with this launch, at its begin. Raises OSError."""
        fd = os.memfd_create("launch", os.MFD_CLOEXEC)
        try:
            data = wire_json.dumps(self.to_json())
            while data:
                data = data[os.write(fd, data) :]
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            os.close(fd)
            raise
        return fd

    @classmethod
    def read(cls, fd: int) -> "Launch":
        with open(fd, "rb", closefd=False) as file:
            return cls.from_json(wire_json.loads(file.read()))  # type: ignore[arg-type]


def run_child(
    launch: Launch,
    stdio: tuple[int, int, int],
    status_fd: int,
    run: "Callable[[Launch, int], None]",
) -> None:
    """Never returns. `run` executes the program or raises; on success it closes `status_fd`."""
    step = "cgroup"
    try:
        if launch.cgroup is not None:
            cgroup.join(launch.cgroup)
        step = "user"
        unprotect()
        room.enter()
        step = "setup"
        # Duplicated first, since 0, 1 and 2 may be among the sources.
        for target, fd in enumerate([os.dup(fd) for fd in stdio]):
            os.dup2(fd, target)
        os.closerange(3, status_fd)
        os.closerange(status_fd + 1, _FDS_MAX)
        os.setsid()
        if launch.pty:
            ioctl(0, TIOCSCTTY, 0)
        step = "user"
        become(launch.uid, launch.gid, launch.groups)
        step = "cwd"
        os.chdir(launch.cwd)
        step = "exec"
        run(launch, status_fd)
    except BaseException as error:
        report(status_fd, step, error)
    finally:
        os._exit(FAILED)


def report(status_fd: int, step: str, error: BaseException) -> None:
    if isinstance(error, OSError):
        os.write(status_fd, f"{step} {error.errno or 0}".encode())
    else:
        os.write(status_fd, f"{step} 0 {error}".encode()[:400])


def unprotect() -> None:
    """Drops the agent's protection from the OOM killer. Before the room is entered: its /proc may be anything."""
    if os.geteuid() == 0:
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(_OOM_SCORE_OF_USERS)
        except OSError:
            pass  # Some test environments have no /proc, and then the kernel's default is the same.


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Drops the agent's rights, for good: in a child of the agent its capabilities with an exec."""
    os.umask(0o022)
    if uid != os.geteuid() or gid != os.getegid():
        room.keep_capabilities()
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


def execute_script(launch: Launch, status_fd: int, has_own_python: bool = False) -> None:
    """Replaces the child with a Python that runs the script, and reports on `status_fd`. Raises OSError."""
    stop_imports()
    fd = launch.write()
    for number in (fd, status_fd):
        os.set_inheritable(number, True)
    _exec_interpreter(["script", str(fd), str(status_fd)], launch.env, has_own_python)


def execute_fork_server(
    sock_fd: int, cgroup_path: str | None, env: dict[str, str], has_own_python: bool
) -> None:
    """Replaces this child of the agent with the fork server (zygote.py), which serves at `sock_fd`. Never returns."""
    try:
        stop_imports()
        if cgroup_path is not None:
            cgroup.join(cgroup_path)
        if has_own_python:
            # It may be anything, of any size. That of the system image stays warm when memory is short.
            unprotect()
        room.enter()
        if has_own_python and not _is_roots_program("python3", env):
            # This process is root, and will be each time it starts again.
            os.write(sock_fd, b'{"type":"cold"}\n')
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        os.dup2(sock_fd, 3)
        sock_fd = 3
        os.set_inheritable(3, True)
        os.closerange(4, _FDS_MAX)
        _exec_interpreter(["fork-server", "3"], env, has_own_python)
    except BaseException as error:
        print(f"neurovisor agent: no fork server: {error}", file=sys.stderr)
        if has_own_python:
            # As interpreter.py says it of a Python that is too old.
            os.write(sock_fd, b'{"type":"unusable"}\n')
    finally:
        os._exit(FAILED)


def _exec_interpreter(arguments: list[str], env: dict[str, str], has_own_python: bool) -> None:
    """`has_own_python`: the environment's own Python, or else the system image's, which is that of the agent."""
    python = "python3" if has_own_python else sys.executable
    exec_in_path([python, "-I", "-S", _INTERPRETER, *arguments], env)


def _is_roots_program(name: str, env: dict[str, str]) -> bool:
    """Whether root alone decides what `exec_in_path` executes; True as well if there is no such program."""
    for directory in env.get("PATH", os.defpath).split(":"):
        path = os.path.abspath(f"{directory or '.'}/{name}")
        if not is_roots(path):
            return False
        if os.access(path, os.X_OK):
            break
    return True


def is_roots(path: str, links: int = 8) -> bool:
    """Whether root alone can change what is at an absolute path, or put something there. @param links: that it follows"""
    parent = os.path.dirname(path)
    if path != parent and not is_roots(parent, links):
        return False
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return not os.path.isdir(parent) or not os.stat(parent).st_mode & 0o022
    except OSError:
        return False
    if status.st_uid != 0:
        return False
    if stat.S_ISLNK(status.st_mode):
        return links > 0 and is_roots(os.path.join(parent, os.readlink(path)), links - 1)
    # In a sticky directory nobody replaces a file of root.
    return not status.st_mode & 0o022 or status.st_mode & stat.S_ISVTX != 0


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
