"""The agent's end of the fork server (zygote.py): starts it, sends it launches, restarts it when it dies."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import errno
import os
import sys
from time import monotonic

from . import cgroup, limits, room, spawn, wire_json
from .connection import Connection
from .framing import LineDecoder, ProtocolError
from .loop import IN, Loop, Timer
from .spawn import Launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # (pid, pid in the room, warm) of the child, or the errno of the failed fork.
    Started = Callable[[int, int, bool], None]
    Failed = Callable[[int], None]

_RESTARTS = 5
_MODULES_MAX = 256
_FIELDS = {
    "warm": ("modules",),
    "started": ("launch", "pid"),
    "failed": ("launch", "errno"),
    "ended": ("launch", "status"),
    "unusable": (),
    "cold": (),
}
# include/linux/socket.h: struct ucred is pid, uid and gid, each of 4 bytes.
_SCM_CREDENTIALS = 2
_UCRED_BYTES = 12


class Job:
    """A launch in progress. `on_ended` gets the wait status, or None when that is unknown."""

    def __init__(
        self,
        launch: Launch,
        stdio: tuple[int, int, int],
        status_fd: int,
        on_started: "Started",
        on_failed: "Failed",
        on_ended: "Callable[[int | None], None]",
    ) -> None:
        self.launch = launch
        self.stdio = stdio
        self.status_fd = status_fd
        self.on_started = on_started
        self.on_failed = on_failed
        self.on_ended = on_ended


class Message:
    """A checked line of the fork server (zygote.py), whose Python may be the user's. `number`: errno, wait status or pid."""

    __slots__ = ("kind", "launch", "number", "modules")

    def __init__(self, line: bytes) -> None:
        """Raises ProtocolError."""
        try:
            fields = wire_json.loads(line)
        except ValueError as error:
            raise ProtocolError(f"a line is not JSON: {error}") from None
        kind = fields.get("type") if isinstance(fields, dict) else None
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise ProtocolError("a line is no message")
        self.kind = kind
        values = {name: fields.get(name) for name in _FIELDS[kind]}
        self.modules: list[object] = values.pop("modules", [])  # type: ignore[assignment]
        for name, value in values.items():
            # `type`, since True is an int.
            if type(value) is not int or not (1 if name == "pid" else 0) <= value < 2**31:
                raise ProtocolError(f"{name} is not a number of its range")
        if kind == "warm":
            self.modules = _check_modules(self.modules)
        self.launch: int = values.get("launch", 0)  # type: ignore[assignment]
        self.number: int = next((n for name, n in values.items() if name != "launch"), 0)  # type: ignore[assignment]


def _check_modules(value: object) -> list[object]:
    """The report of the warm list, as the host takes it in an event: it ends a sandbox that sends another."""
    if not isinstance(value, list) or len(value) > _MODULES_MAX:
        raise ProtocolError("modules is not a list of its size")
    modules: list[object] = []
    for each in value:
        fields = each if isinstance(each, dict) else {}
        name, duration, error = fields.get("name"), fields.get("durationMs"), fields.get("error")
        is_duration = type(duration) in (int, float) and 0 <= duration < 2**31
        if not isinstance(name, str) or not is_duration or not (error is None or isinstance(error, str)):
            raise ProtocolError("a module is not as it is reported")
        modules.append({"name": name, "durationMs": duration, "error": error})
    if len(wire_json.dumps(modules)) > limits.WARM_REPORT_BYTES:
        raise ProtocolError("the report of modules is too long")
    return modules


class _Senders(Connection):
    """A connection over a unix socket. `sender` is the pid of the process that sent the data of this turn."""

    def __init__(self, loop: Loop, sock: "_socket.socket") -> None:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        super().__init__(loop, sock)
        self.sender = 0

    def _take(self) -> bytes:
        # The kernel gives data of two senders in two calls.
        data, ancillary, _flags, _address = self._sock.recvmsg(
            limits.FRAME_PAYLOAD_BYTES, _socket.CMSG_SPACE(_UCRED_BYTES)
        )
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _SCM_CREDENTIALS:
                self.sender = int.from_bytes(payload[:4], sys.byteorder)
        return data


class ForkServer:
    """`report` is called with the modules of the warm list once they are imported.

    `has_own_python`: scripts run on the `python3` in the PATH of `env`, which need not exist: launches then fail with ENOPKG.
    If others than root can replace it there is no fork server, since that is root: scripts start cold.
    """

    def __init__(
        self,
        loop: Loop,
        warm: list[str],
        rehearse: bool,
        env: dict[str, str],
        cgroups: "cgroup.Cgroups",
        report: "Callable[[list[object]], None]",
        has_own_python: bool = False,
    ) -> None:
        self._loop = loop
        self._warm = warm
        self._rehearse = rehearse
        self._env = env
        self._cgroup = f"{cgroups.user}/zygote" if cgroups.user is not None else None
        self._report = report
        self._has_own_python = has_own_python
        self._is_unusable = self._is_cold = False
        self._has_reported = False
        self._connection: Connection | None = None
        self._sock: _socket.socket | None = None
        self._pid = 0
        self._restarts = 0
        self._forgotten_at = 0.0
        self._is_closed = False
        self._is_warm = False
        self._deadline: Timer | None = None
        self._late: Timer | None = None
        self._retry: Timer | None = None
        self._waiting: list[Job] = []
        # By number of the launch: sent, but not answered yet; with their pids, running.
        self._launches = 0
        self._starting: dict[int, Job] = {}
        self._children: dict[int, tuple[Job, int]] = {}
        self._start()

    def launch(self, job: Job, wait_warm: bool) -> None:
        """Starts `job` warm; while that is impossible, cold: unless `wait_warm`, and the fork server is warming up."""
        if self._connection is None and self._retry is None:
            self._forget()
            if self._may_restart():
                self._start()
        if self._is_unusable:
            job.on_failed(errno.ENOPKG)
        elif self._connection is None or not (self._is_warm or wait_warm):
            fork_child(self._loop, job, self._execute_script)
        elif self._is_warm:
            self._send(job)
        else:
            self._waiting.append(job)

    def close(self) -> None:
        """Ends the fork server. Its running children live on, without a known exit status."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._pid:
            os.kill(self._pid, _signal.SIGKILL)

    def _forget(self) -> None:
        """Deaths are forgotten one by one: in a long life there may be many."""
        now = monotonic()
        forgotten = int((now - self._forgotten_at) // limits.FORK_SERVER_FORGET_S)
        self._restarts = max(0, self._restarts - forgotten)
        self._forgotten_at = now if self._restarts == 0 else self._forgotten_at + forgotten * limits.FORK_SERVER_FORGET_S

    def _may_restart(self) -> bool:
        return not (self._is_closed or self._is_unusable or self._is_cold) and self._restarts <= _RESTARTS

    def _start(self) -> None:
        self._retry = None
        try:
            ours, theirs = _socket.socketpair()  # type: ignore[attr-defined]
            pid = os.fork()
        except OSError as error:
            print(f"neurovisor agent: no fork server yet: {error}", file=sys.stderr)
            self._retry = self._loop.after(limits.FORK_SERVER_RETRY_S, self._start)
            return
        if pid == 0:
            try:
                env = self._env if self._has_own_python else dict(os.environ)
                spawn.execute_fork_server(theirs.fileno(), self._cgroup, env, self._has_own_python)
            finally:
                os._exit(spawn.FAILED)
        theirs.close()
        self._pid = pid
        self._sock = ours
        self._is_warm = False
        connection = self._connection = _Senders(self._loop, ours)
        lines = LineDecoder(limits.FORK_SERVER_LINE_BYTES)

        def receive(data: bytes) -> None:
            try:
                while (got := lines.receive(data)) is not None:
                    line, data = got
                    self._answer(Message(line), connection.sender)
            except ProtocolError as error:
                print(f"neurovisor agent: fork server: {error}", file=sys.stderr)
                connection.abort()

        connection.on_data = receive
        connection.on_end = self._lost
        self._watch_end(pid, connection)
        self._deadline = self._loop.after(limits.WARM_S, lambda: os.kill(pid, _signal.SIGKILL))
        setup = wire_json.dumps({"warm": self._warm, "rehearse": self._rehearse, "env": self._env})
        connection.send(len(setup).to_bytes(4, "big") + setup)

    def _watch_end(self, pid: int, connection: Connection) -> None:
        """A process that a module of the warm list left behind may hold the socket, which then does not end."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # Without a descriptor, the end of the connection must do.

        def exited() -> None:
            # What it sent last is read first.
            self._loop.after(limits.FORK_SERVER_END_S, connection.abort)

        _watch(self._loop, pidfd, exited)

    def _send(self, job: Job) -> None:
        fd = -1
        try:
            fd = job.launch.write()
            fds = b"".join(
                number.to_bytes(4, "little") for number in (fd, *job.stdio, job.status_fd)
            )
            assert self._sock is not None
            self._sock.sendmsg([b"L"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
            self._starting[self._launches] = job
            self._launches += 1
            self._await_answer()
        except OSError as error:
            job.on_failed(error.errno or 0)
        finally:
            if fd >= 0:
                os.close(fd)

    def _await_answer(self) -> None:
        """It answers launches in their order, so the time of the first that waits counts."""
        if self._late is None and self._starting and self._connection is not None:
            first, connection = next(iter(self._starting)), self._connection

            def look() -> None:
                self._late = None
                if first in self._starting and self._connection is connection:
                    print("neurovisor agent: the fork server answers nothing", file=sys.stderr)
                    connection.abort()
                else:
                    self._await_answer()

            self._late = self._loop.after(limits.LAUNCH_S, look)

    def _answer(self, message: Message, sender: int) -> None:
        """`sender`: pid of the process that sent it. Raises ProtocolError for an answer that nothing asked for."""
        kind, launch = message.kind, message.launch
        if kind == "warm":
            self._is_warm = True
            if self._deadline is not None:
                self._deadline.cancel()
            waiting, self._waiting = self._waiting, []
            for job in waiting:
                self._send(job)
            self._tell(message.modules)
        elif kind in ("unusable", "cold"):
            if not self._has_own_python or self._is_warm:
                raise ProtocolError("it has no Python of its own, or had one")
            self._is_unusable, self._is_cold = kind == "unusable", kind == "cold"
            self._tell([])
        elif kind == "ended" and launch in self._children:
            self._children.pop(launch)[0].on_ended(message.number)
        elif launch not in self._starting:
            raise ProtocolError(f'"{kind}" of launch {launch}, which is not known')
        elif kind == "started":
            # Root of the sandbox may forge credentials (unix(7)), and a kill of pid 0 would be one of our own group.
            if sender in (0, 1, os.getpid()):
                raise ProtocolError(f"pid {sender} is no script")
            job = self._starting.pop(launch)
            self._children[launch] = job, sender
            # One that has ended already has only its own word. It is for people: signals go to `sender`.
            job.on_started(sender, room.inner_pid(sender) or message.number, True)
        else:
            # One that ended without a start was killed in between.
            number = message.number if kind == "failed" else errno.ECHILD
            self._starting.pop(launch).on_failed(number)

    def _lost(self) -> None:
        """Handles its death: jobs not sent start cold; children it started end without a known status."""
        for timer in (self._deadline, self._late):
            if timer is not None:
                timer.cancel()
        self._late = None
        # It may have closed its socket and live on.
        os.kill(self._pid, _signal.SIGKILL)
        on_exit(self._loop, self._pid, lambda _status: None)
        self._pid = 0
        self._connection = self._sock = None
        self._is_warm = False
        unstarted = self._waiting
        uncertain, children = self._starting, self._children
        self._waiting, self._starting, self._children = [], {}, {}
        self._launches = 0
        for job in unstarted:
            if self._is_unusable:
                job.on_failed(errno.ENOPKG)
            else:
                fork_child(self._loop, job, self._execute_script)
        for job in uncertain.values():
            job.on_failed(errno.ECHILD)
        for job, pid in children.values():
            self._watch_orphan(pid, job)
        self._forget()
        self._restarts += 1
        if self._may_restart():
            self._retry = self._loop.after(self._restarts * 0.1, self._start)
        elif self._has_own_python and not self._has_reported:
            # The host waits for it. Scripts start cold, and show what is wrong with the Python.
            self._tell([])

    def _tell(self, modules: list[object]) -> None:
        self._has_reported = True
        self._report(modules)

    def _execute_script(self, launch: Launch, status_fd: int) -> None:
        spawn.execute_script(launch, status_fd, self._has_own_python)

    def _watch_orphan(self, pid: int, job: Job) -> None:
        def exited() -> None:
            if not room.is_ending():
                job.on_ended(None)

        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            exited()
            return
        _watch(self._loop, pidfd, exited)


def fork_child(loop: Loop, job: Job, run: "Callable[[Launch, int], None]") -> None:
    """Starts a child of the agent itself."""
    try:
        pid = os.fork()
    except OSError as error:
        job.on_failed(error.errno or 0)
        return
    if pid == 0:
        spawn.run_child(job.launch, job.stdio, job.status_fd, run)
    on_exit(loop, pid, job.on_ended)
    # Not reaped yet, so it is known.
    job.on_started(pid, room.inner_pid(pid) or pid, False)


def on_exit(loop: Loop, pid: int, ended: "Callable[[int], None]") -> None:
    """Reaps the child `pid` when it exits, and calls `ended` with its wait status."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        # No descriptor is left, but the child runs: poll until it has exited.
        loop.after(limits.REAP_RETRY_S, lambda: _reap(loop, pid, ended))
        return
    _watch(loop, pidfd, lambda: _reap(loop, pid, ended))


def _reap(loop: Loop, pid: int, ended: "Callable[[int], None]") -> None:
    """Never waits: a child that a program traces is that program's to reap first (ptrace(2))."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        if not (os.WIFSIGNALED(status) and room.is_ending()):
            ended(status)
    else:
        loop.after(limits.REAP_RETRY_S, lambda: _reap(loop, pid, ended))


def _watch(loop: Loop, pidfd: int, exited: "Callable[[], None]") -> None:
    def ready(_events: int) -> None:
        loop.unwatch(pidfd)
        os.close(pidfd)
        exited()

    loop.watch(pidfd, IN, ready)
