"""One program of the user: its streams, its limits, and how it ended. The states (process_state.py):

    new           start ─► starting
    starting      forked ─► forked │ executed ─► executed │ refuse ─► refused
    forked        executed ─► running │ exited ─► exited_early │ refuse ─► refused
    executed      forked ─► running │ refuse ─► refused
    exited_early  executed ─► ended │ refuse ─► refused
    running       exited ─► ended
    ended         drain ─► draining │ finish ─► complete
    draining      held ─► ended │ finish ─► complete
    complete
    refused       forked ─► refused │ exited ─► refused │ refuse ─► refused

Beside the state, output is held or flows: `settle` (the VM is about to be saved) holds it, since the
connection is about to end; `release` lets it flow. The program outlives that connection. The newest output of
every program and its end are kept for an `attach` and for `logs`.

A grandchild may keep the output pipes open forever (G19): `PIPE_GRACE_S` after the program's end what
is in the pipes is delivered, then they are closed. A timeout, a kill and a client that leaves take every
process of the program (its cgroup; without cgroups its process group). A lost host does not.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import os
import time
from errno import ECHILD, ENOPKG
from fcntl import ioctl
from termios import TIOCSWINSZ

from . import cgroup, limits, request, signals, wire_json
from .cgroup import Cgroups
from .connection import Connection
from .fork_server import Job
from .framing import CONTROL, STDERR, STDIN, STDOUT, FrameDecoder, ProtocolError, frame
from .kept_output import KeptOutput
from .loop import IN, OUT, Loop, Timer
from .observer import Observer
from .process_state import transition
from .request import Options, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .process_state import Event, State
    from .spawn import Launch
    from .victims import Victims

_REPORT_BYTES = 512
_ERRNO_DIGITS = 4
_STREAMS = {STDOUT: "stdout", STDERR: "stderr"}
_STEPS = {"cwd": "working directory", "user": "user", "cgroup": "cgroup", "exec": "program"}


class Process:
    def __init__(
        self,
        loop: Loop,
        cgroups: Cgroups,
        victims: "Victims",
        launch: "Launch",
        options: Options,
        on_running: "Callable[[Process], None]",
        on_complete: "Callable[[Process, dict[str, object]], None]",
    ) -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._victims = victims
        self.launch = launch
        self.options = options
        self._on_running = on_running
        self._on_complete = on_complete
        self._state: State = "new"
        # As the room numbers it, so as the host and its programs know it; and as the agent's own system calls do.
        self.pid = self._outer_pid = 0
        self.started_at = time.monotonic()
        # Facts for the answer and for the end.
        self._warm = False
        self._status: int | None = None
        self._duration_s = 0.0
        self._killed = self._timed_out = self._truncated = False
        self._sent = 0
        self._oom_before = cgroups.memory_events().get("oom_kill", 0)
        self._connection: Connection | None = None
        self._rest = b""
        self._held = False
        self._kept = KeptOutput()
        # True from a `settle` or the loss of the host on: the program outlives its present connection.
        self._outlives = False
        # Where an `attach` without offsets begins, once the program has outlived a connection; None: at the end.
        self._unread: dict[int, int] | None = None
        # True once a connection has got the end.
        self.was_delivered = False
        self._observers: list[Observer] = []
        self._result: dict[str, object] = {}
        self._timers: list[Timer] = []
        self._outputs: dict[int, int] = {}
        self._status_fd = -1
        self._stdin_fd = -1
        self._stdin = bytearray()
        self._stdin_eof = False
        self._master = -1

    def start(self, connection: Connection, rest: bytes, launch: "Callable[[Job], None]") -> None:
        """Has `launch` fork the child, and answers once the program runs or has failed to start.

        `rest` is what came after the request. The connection must be paused.
        """
        self._move("start")
        self._connection = connection
        self._rest = rest
        connection.on_end = self._disconnected
        child_ends: list[int] = []

        def close_child_ends() -> None:
            for fd in child_ends:
                os.close(fd)

        try:
            stdio = self._open_streams(child_ends)
            self._status_fd, status_child = os.pipe()
            child_ends.append(status_child)
            self._loop.watch(self._status_fd, IN, lambda _events: self._report())
        except OSError as error:
            close_child_ends()
            self._refuse(request.from_errno(error.errno, "start a process"))
            return

        def started(pid: int, inner_pid: int, warm: bool) -> None:
            close_child_ends()
            self._outer_pid, self.pid, self._warm = pid, inner_pid, warm
            self.started_at = time.monotonic()
            self._move("forked")
            # Now, since code of the user's site-packages may run before the script does.
            if self.options.timeout_s is not None and self._state != "refused":
                self._timers.append(self._loop.after(self.options.timeout_s, self._time_out))
            if self._killed:
                self.kill(_signal.SIGKILL)
            if self._state == "running":
                self._run()

        def failed(number: int) -> None:
            close_child_ends()
            if number == ENOPKG:
                what = "this image has no Python 3.10 or newer: use exec"
                self._refuse(RequestError("not_found", what))
            elif number == ECHILD:
                what = "the fork server or the script was killed while the script started; it may be running"
                self._refuse(RequestError("guest_failed", what))
            else:
                self._refuse(request.from_errno(number, "start a process"))

        launch(Job(self.launch, stdio, status_child, started, failed, self._child_ended))

    def attach(self, connection: Connection, rest: bytes, offsets: dict[int, int] | None) -> None:
        """Moves the streams to `connection`, with the output from `offsets` on; the previous one gets `detached`.

        Raises RequestError.
        """
        begins = self._begins(offsets or self._unread or self._kept.ends)
        kept = [(kind, self._kept.since(kind, begin)) for kind, begin in begins.items()]
        frames = b"".join(frame(kind, data) for kind, data in kept if data)
        self._unread, self._outlives = None, False
        if self._state == "complete":
            self._answer(connection, begins)
            connection.send(frames + _control({"type": "exit", **self._result}))
            connection.finish()
            self.was_delivered = True
            return
        previous, self._connection = self._connection, connection
        if previous is not None:
            previous.on_end = lambda: None
            previous.send(_control({"type": "detached"}))
            previous.finish()
        connection.on_end = self._disconnected
        self._answer_running(rest, begins, frames)

    def observe(
        self, connection: Connection, offsets: dict[int, int] | None, over: "Callable[[], None]"
    ) -> None:
        """Sends output from `offsets` on (None: no output) and the end to `connection`. Raises RequestError."""
        begins = self._begins(offsets) if offsets is not None else None
        self._answer(connection, begins or self._kept.ends)
        observer = Observer(connection, self._kept, begins)

        def ended() -> None:
            self._observers.remove(observer)
            over()

        connection.on_end = ended
        self._observers.append(observer)
        if self._state == "complete":
            observer.end(self._result)
        else:
            observer.send()

    def _begins(self, offsets: dict[int, int]) -> dict[int, int]:
        """Where the output from `offsets` on begins: later than asked for if older output is gone."""
        for kind, offset in offsets.items():
            if offset > self._kept.ends[kind]:
                what = f"{_STREAMS[kind]} has {self._kept.ends[kind]} bytes, which is less than the offset {offset}"
                raise RequestError("invalid_request", what)
        return {kind: max(offset, self._kept.begin(kind)) for kind, offset in offsets.items()}

    def settle(self, hold: bool) -> None:
        """Detaches the program, also one whose connection has just ended. `hold`: output waits in the pipes until the connection ends, or `release`."""
        self.options.detached = True
        if self._connection is None or self._state == "complete":
            return
        self._outlives = True
        if hold:
            self._held = True
            for fd in self._outputs:
                self._loop.unwatch(fd)

    def release(self) -> None:
        """Lets output flow again: to the connection or, if that ended after a `settle`, into the kept output."""
        self._held = False
        if self._state in ("running", "ended", "draining"):
            self._resume_outputs()
        self._conclude()

    @property
    def is_unclaimed(self) -> bool:
        """True when it has ended after it outlived its connection: an `attach` without offsets still gets its end."""
        return self._state == "complete" and self._unread is not None

    def kill(self, number: int) -> None:
        """Sends SIGKILL to all processes, other signals to the process group (a terminal's: its session leader's).

        A SIGKILL that comes before the pid is known is sent then.
        """
        if number == _signal.SIGKILL:
            self._killed = True
        if self._state in ("new", "starting", "executed", "complete", "refused"):
            return
        path = self.launch.cgroup
        if number == _signal.SIGKILL and path is not None and cgroup.kill(path):
            return
        signals.send_group(self._outer_pid, number, leader=self._state in ("forked", "running"))

    def resize(self, size: tuple[int, int]) -> None:
        if self._master < 0:
            raise RequestError("invalid_request", "the process has no terminal")
        _set_size(self._master, size)

    def describe(self) -> dict[str, object]:
        return {
            "pid": self.pid,
            "kind": self.options.kind,
            "argv": self.launch.summary(),
            "cwd": self.launch.cwd,
            "user": self.options.user,
            "tag": self.options.tag,
            "pty": self.options.size is not None,
            "detached": self.options.detached,
            "ageMs": round((time.monotonic() - self.started_at) * 1000),
            **({"exit": self._result} if self._state == "complete" else {}),
        }

    def _move(self, event: "Event") -> None:
        self._state = transition(self._state, event)

    # Start

    def _open_streams(self, child_ends: list[int]) -> tuple[int, int, int]:
        """Opens our ends, non-blocking; returns the child's 0, 1 and 2, which it adds to `child_ends` at once.

        Raises OSError: what was opened until then is in `child_ends`, or closed by `_release`.
        """
        if self.options.size is not None:
            self._master, slave = os.openpty()
            child_ends.append(slave)
            self._add_output(self._master, STDOUT)
            _set_size(self._master, self.options.size)
            if os.geteuid() == 0:
                os.fchown(slave, self.launch.uid, -1)
            self._stdin_fd = os.dup(self._master)
            os.set_blocking(self._stdin_fd, False)
            return slave, slave, slave
        if self.options.stdin:
            stdin, self._stdin_fd = os.pipe()
            os.set_blocking(self._stdin_fd, False)
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        child_ends.append(stdin)
        for kind in (STDOUT, STDERR):
            ours, theirs = os.pipe()
            self._add_output(ours, kind)
            child_ends.append(theirs)
        return stdin, child_ends[1], child_ends[2]

    def _add_output(self, fd: int, kind: int) -> None:
        """Adds an output, which is read once the program runs: the answer to the request comes first."""
        os.set_blocking(fd, False)
        self._outputs[fd] = kind

    def _report(self) -> None:
        """Reads the child's status pipe: a report says why the program could not be started."""
        report = os.read(self._status_fd, _REPORT_BYTES)
        self._close_status()
        if report:
            step, number, text = _parse_report(report)
            subject = _STEPS.get(step, "start")
            if step == "cwd":
                subject += f" {self.launch.cwd!r}"
            elif step == "exec":
                script = self.launch.script
                # A script's `argv` is what follows its name.
                name = script.get("path") or "-c" if script is not None else self.launch.argv[0]
                subject += f" {name!r}"
            what = request.from_errno(number, subject)
            self._refuse(RequestError(what.code, f"{subject}: {text}") if text else what)
            return
        self._move("executed")
        if self._state in ("running", "ended"):
            self._run()

    def _close_status(self) -> None:
        if self._status_fd >= 0:
            self._loop.unwatch(self._status_fd)
            os.close(self._status_fd)
            self._status_fd = -1

    def _run(self) -> None:
        """Answers the host: the program runs, or has exited already."""
        self._on_running(self)
        if self._connection is not None:
            self._answer_running(self._rest, self._kept.ends)
            self._rest = b""
        else:
            self._resume_outputs()
        self._conclude()

    def _answer(self, connection: Connection, begins: dict[int, int]) -> None:
        """`from`: offset of the output that follows. `to`: that of the output after what is sent at once."""
        offsets = {
            name: {stream: at[kind] for kind, stream in _STREAMS.items()}
            for name, at in (("from", begins), ("to", self._kept.ends))
        }
        answer = {"ok": True, "pid": self.pid, "warm": self._warm, **offsets}
        connection.send(wire_json.dumps(answer) + b"\n")

    def _answer_running(self, rest: bytes, begins: dict[int, int], kept: bytes = b"") -> None:
        connection = self._connection
        assert connection is not None
        self._answer(connection, begins)
        connection.send(kept)
        decoder = FrameDecoder((STDIN,))

        def receive(data: bytes) -> None:
            try:
                for _kind, payload in decoder.receive(data):
                    self._feed(payload)
            except ProtocolError:
                connection.abort()

        connection.on_data = receive
        connection.on_drain = self._resume_outputs
        connection.read(True)
        if rest:
            receive(rest)
        self._resume_outputs()

    def _refuse(self, error: RequestError) -> None:
        """The program did not start. Only the first reason counts."""
        is_first = self._state != "refused"
        self._move("refuse")
        if not is_first:
            return
        if self._connection is not None:
            self._connection.on_end = lambda: None
            self._connection.send(
                wire_json.dumps({"ok": False, "code": error.code, "message": str(error)}) + b"\n"
            )
            self._connection.finish()
            self._connection = None
        self._release()
        self._on_complete(self, {})

    # Streams

    def _feed(self, payload: bytes) -> None:
        """Takes a stdin frame; an empty one is the end. Input after the program closed its end is dropped."""
        if not payload:
            self._stdin_eof = True
            if self._master >= 0:
                payload = b"\x04"  # A terminal has no end of file but the EOF character.
        if self._stdin_fd >= 0:
            self._stdin += payload
            self._write_stdin()

    def _write_stdin(self, _events: int = 0) -> None:
        fd = self._stdin_fd
        try:
            while self._stdin:
                del self._stdin[: os.write(fd, self._stdin)]
        except BlockingIOError:
            self._loop.watch(fd, OUT, self._write_stdin)
        except OSError:
            self._close_stdin()
        else:
            self._loop.unwatch(fd)
            if self._stdin_eof and self._master < 0:
                self._close_stdin()
        if self._connection is not None:
            self._connection.read(len(self._stdin) < limits.STDIN_BYTES)

    def _close_stdin(self) -> None:
        if self._stdin_fd >= 0:
            self._loop.unwatch(self._stdin_fd)
            os.close(self._stdin_fd)
            self._stdin_fd = -1
        self._stdin.clear()

    def _read_output(self, fd: int) -> int:
        """Reads and delivers one chunk. Returns its size, 0 at the end, -1 when no output is waiting."""
        try:
            data = os.read(fd, limits.CHUNK_BYTES)
        except BlockingIOError:
            return -1
        except OSError:
            data = b""  # EIO: no process has the terminal open.
        if not data:
            self._close_output(fd)
            return 0
        self._deliver(self._outputs[fd], data)
        return len(data)

    def _deliver(self, kind: int, data: bytes) -> None:
        room = self.options.output_max
        if room is not None and self._sent + len(data) > room:
            data = data[: room - self._sent]
            self._truncated = True
        self._sent += len(data)
        self._kept.add(kind, data)
        for observer in list(self._observers):
            observer.send()
        connection = self._connection
        if connection is not None and data:
            connection.send(frame(kind, data))
            if connection.full:
                for fd in self._outputs:
                    self._loop.unwatch(fd)
        elif self._unread is not None and self._unread[kind] < self._kept.begin(kind):
            self._truncated = True

    def _resume_outputs(self) -> None:
        if self._held:
            return
        for fd in self._outputs:
            self._loop.watch(fd, IN, lambda _events, fd=fd: self._read_output(fd))

    def _close_output(self, fd: int) -> None:
        self._loop.unwatch(fd)
        del self._outputs[fd]
        if fd == self._master:
            self._master = -1
        os.close(fd)
        if not self._outputs:
            self._conclude()

    # Endings

    def _disconnected(self) -> None:
        self._connection = None
        detached = self.options.detached
        self._unread = dict(self._kept.ends) if self._outlives or not detached else None
        if not detached:
            # Did the client leave, or is the host lost? Then the control connection ends within this time, too.
            self._loop.after(limits.HOST_LOSS_S, self._left)
        self.release()

    def _left(self) -> None:
        if not self.options.detached and self._connection is None and self._state != "complete":
            self._unread = None
            self.kill(_signal.SIGKILL)

    def _time_out(self) -> None:
        self._timed_out = True
        # Programs may count signals, so each process gets it once: with its group, or as a member outside of it.
        members = cgroup.members(self.launch.cgroup) if self.launch.cgroup else []
        others = [pid for pid in members if not signals.is_in_group(pid, self._outer_pid)]
        self.kill(_signal.SIGTERM)
        for pid in others:
            signals.send(pid, _signal.SIGTERM)
        self._timers.append(
            self._loop.after(limits.TERM_GRACE_S, lambda: self.kill(_signal.SIGKILL))
        )

    def _child_ended(self, status: int | None) -> None:
        self._move("exited")
        self._status = status
        self._duration_s = time.monotonic() - self.started_at
        if self._state == "ended" and (self._timed_out or self._killed):
            self.kill(_signal.SIGKILL)
        self._conclude()

    def _conclude(self) -> None:
        """Completes a program that has ended, at once or after the grace period of its output."""
        if self._held or self._state not in ("ended", "draining"):
            return
        if not self._outputs:
            self._finish()
        elif self._state == "ended":
            self._move("drain")
            self._timers.append(self._loop.after(limits.PIPE_GRACE_S, self._drain))

    def _drain(self) -> None:
        """Delivers what the pipes hold, at most what a pipe can hold, then closes them."""
        if self._held:
            self._move("held")
            return
        for fd in list(self._outputs):
            left = limits.PIPE_BYTES
            while left > 0 and fd in self._outputs and (size := self._read_output(fd)) > 0:
                left -= size
        if self._state == "draining":
            self._finish()

    def _finish(self) -> None:
        self._move("finish")
        result = self._result = self._describe_end()
        if self._connection is not None:
            self._connection.on_end = lambda: None
            self._connection.send(_control({"type": "exit", **result}))
            self._connection.finish()
            self._connection = None
            self.was_delivered = True
        for observer in list(self._observers):
            observer.end(result)
        self._release()
        self.launch.forget()
        self._on_complete(self, result)

    def _describe_end(self) -> dict[str, object]:
        code = signal_name = None
        if self._status is not None and os.WIFEXITED(self._status):
            code = os.WEXITSTATUS(self._status)
        elif self._status is not None:
            signal_name = signals.name(os.WTERMSIG(self._status))
        # 137 is a shell's status for a child that got SIGKILL.
        killed_by_kernel = signal_name == "SIGKILL" and not self._killed or code == 137
        kills = self._cgroups.memory_events().get("oom_kill", 0) - self._oom_before
        victim = self._victims.find(
            self.launch.cgroup, self._outer_pid, self.started_at, killed_by_kernel
        )
        return {
            "exitCode": code,
            "signal": signal_name,
            "timedOut": self._timed_out,
            "oomKilled": killed_by_kernel and (kills > 0 or victim is not None),
            "oomVictim": victim.to_json() if victim is not None else None,
            "truncated": self._truncated,
            "durationMs": round(self._duration_s * 1000, 1),
        }

    def _release(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._close_stdin()
        self._close_status()
        for fd in list(self._outputs):
            self._loop.unwatch(fd)
            os.close(fd)
        self._outputs.clear()
        self._master = -1
        self._cgroups.release(self.launch.cgroup)


def _parse_report(report: bytes) -> tuple[str, int, str]:
    """Step, errno and text of `spawn.report`. Code of the user's site-packages may have written it, too."""
    step, _, rest = report.decode("utf-8", "replace").partition(" ")
    number, _, text = rest.partition(" ")
    is_errno = number.isascii() and number.isdigit() and len(number) <= _ERRNO_DIGITS
    return step, int(number) if is_errno else 0, text


def _control(message: dict[str, object]) -> bytes:
    return frame(CONTROL, wire_json.dumps(message))


def _set_size(fd: int, size: tuple[int, int]) -> None:
    cols, rows = size
    ioctl(fd, TIOCSWINSZ, rows.to_bytes(2, "little") + cols.to_bytes(2, "little") + bytes(4))
