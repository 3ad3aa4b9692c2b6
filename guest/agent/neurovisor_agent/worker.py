"""Runs file operations in a forked child that has the user's own rights.

So the kernel checks each path for the user, races with symbolic links included, and a slow or odd file
can't block the agent. The child serves its one connection with blocking calls, then exits.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import os
import sys

from . import cgroup, limits, passwd, room, spawn, wire_json
from .account import Account
from .connection import Connection
from .fork_server import on_exit
from .framing import ProtocolError
from .loop import Loop, Timer
from .request import Request, RequestError, from_errno
from .stream import LocalError, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[str, Request, Account, Stream], None]

WORKER_OPERATIONS = frozenset(("read", "write", "stat", "list", "move", "remove", "mkdir", "watch"))
_FDS_MAX = 1 << 20
# Fits into a pipe, so that the child never waits for the agent.
_PROBLEM_BYTES = 2048


def start_worker(
    loop: Loop,
    connection: Connection,
    operation: str,
    request: Request,
    who: Account,
    rest: bytes,
    group: str | None,
    over: "Callable[[], None]",
) -> None:
    """`group`: the cgroup of file operations, if there is one. Raises OSError."""
    run = _code_of(operation)
    sock = connection.detach()
    try:
        pid = os.fork()
    except OSError:
        sock.close()
        raise
    if pid == 0:
        _serve(sock, run, operation, request, who, rest, group)

    sock.close()
    on_exit(loop, pid, lambda _status: over())


def _code_of(operation: str) -> "Run":
    """Imported before the fork, since a child imports nothing (spawn.py)."""
    if operation == "watch":
        from . import watch

        return watch.run
    from . import files

    return files.run


def start_flush(
    loop: Loop,
    in_vm: bool,
    drop_caches: bool,
    wait: "Callable[[], bool] | None",
    must_freeze: bool,
    done: "Callable[[RequestError | None], None]",
    last: "Callable[[], str | None] | None" = None,
) -> None:
    """Calls `wait`, syncs the file systems and drops caches, in a child since all may take seconds. Raises OSError.

    Outside a VM the file systems are the machine's own, so nothing happens. `must_freeze`: fails if `wait` returns False.
    `last`: is called after all that; returns the problem, if any.
    """

    def flush() -> str | None:
        if wait is not None and not wait() and must_freeze:
            return f"programs could not be stopped within {limits.FREEZE_POLLS * limits.FREEZE_POLL_S:.0f} s"
        if in_vm:
            os.sync()
        if in_vm and drop_caches:
            # Documentation/admin-guide/sysctl/vm.rst: page cache, dentries and inodes
            cgroup.write_text("/proc/sys/vm/drop_caches", "3")
            # Each hello and program looks at the account files: else each clone reads their inodes from its disk.
            passwd.accounts()
        return last() if last is not None else None

    def ended(problem: str | None) -> None:
        done(RequestError("guest_failed", problem) if problem is not None else None)

    start_task(loop, flush, ended)


def start_task(
    loop: Loop,
    task: "Callable[[], str | None]",
    done: "Callable[[str | None], None]",
    seconds_max: float | None = None,
    in_room: bool = False,
) -> None:
    """Runs `task` in a child with the agent's rights, for what may block. Raises OSError when there can be no child.

    `in_room`: for files of the sandbox, whose links then lead no further than the sandbox's own.

    Passes its result to `done`: a problem, in a sentence, or None.
    """
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid == 0:
        _run_task(task, theirs, in_room)
    os.close(theirs)
    late: list[Timer] = []
    if seconds_max is not None:
        late.append(loop.after(seconds_max, lambda: os.kill(pid, _signal.SIGKILL)))

    def ended(status: int) -> None:
        for timer in late:
            timer.cancel()
        problem = os.read(ours, _PROBLEM_BYTES).decode("utf-8", "replace")
        os.close(ours)
        if status != 0 and not problem:
            problem = "it took too long" if os.WIFSIGNALED(status) else "it failed"
        done(problem or None)

    on_exit(loop, pid, ended)


def _run_task(task: "Callable[[], str | None]", result_fd: int, in_room: bool) -> None:
    """Runs in the child; never returns."""
    status = 1
    try:
        spawn.stop_imports()
        if in_room:
            room.enter()
        # Otherwise these copies of the agent's sockets would keep connections open after the agent closes them.
        os.closerange(3, result_fd)
        os.closerange(result_fd + 1, _FDS_MAX)
        try:
            problem = task()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            os.write(result_fd, problem.encode("utf-8", "replace")[:_PROBLEM_BYTES])
        status = 0
    finally:
        os._exit(status)


def _serve(
    sock: "_socket.socket",
    run: "Run",
    operation: str,
    request: Request,
    who: Account,
    rest: bytes,
    group: str | None,
) -> None:
    """Runs in the child; never returns."""
    try:
        if group is not None:
            # First: if the disk is being saved, this child stops here.
            cgroup.join(group)
        spawn.stop_imports()
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        spawn.unprotect()
        room.enter()
        os.closerange(3, sock.fileno())
        os.closerange(sock.fileno() + 1, _FDS_MAX)
        sock.setblocking(True)
        _run(sock, run, operation, request, who, rest)
        sock.shutdown(_socket.SHUT_WR)
        # Closing with unread input would reset the connection and lose our last bytes.
        sock.settimeout(limits.LINGER_S)
        while sock.recv(limits.FRAME_PAYLOAD_BYTES):
            pass
    except OSError:
        pass  # The host has hung up.
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(0)


def _run(
    sock: "_socket.socket", run: "Run", operation: str, request: Request, who: Account, rest: bytes
) -> None:
    stream = Stream(sock, rest)
    try:
        try:
            if not request.flag("asRoot", False):
                spawn.become(who.uid, who.gid, who.groups)
                if who.uid != 0:
                    room.drop_capabilities()
            run(operation, request, who, stream)
        except LocalError as error:
            raise from_errno(error.number, error.what) from error
    except (RequestError, ProtocolError) as error:
        code = error.code if isinstance(error, RequestError) else "invalid_request"
        message = str(error)[: limits.MESSAGE_CHARACTERS]
        line = wire_json.dumps({"ok": False, "code": code, "message": message})
        sock.sendall(line + b"\n")
