"""Port 5000: reads the request of each connection and starts its operation."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import os
import sys

from . import PROTOCOL, account, cgroup, limits, spawn, stats, wire_json
from .connection import Connection
from .fork_server import ForkServer, Job, fork_child
from .framing import BODY, FrameDecoder, LineDecoder, ProtocolError
from .loop import Loop, Timer
from .process import Process
from .request import Options, Request, RequestError, from_errno
from .settings import Settings
from .spawn import Launch
from .splice import splice
from .victims import Victims
from .worker import WORKER_OPERATIONS, start_flush, start_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS = frozenset(
    "SIGHUP SIGINT SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGTERM SIGCONT SIGSTOP SIGTSTP SIGWINCH".split()
)
_TIMEOUT_MS_MAX = 7 * 24 * 3600 * 1000
_SCRIPT_NAME_CHARACTERS = 200


class Operations:
    """The running operations. `event` reports ends of programs to the host."""

    def __init__(
        self,
        loop: Loop,
        cgroups: cgroup.Cgroups,
        settings: Settings,
        scripts_dir: str,
        in_vm: bool,
        victims: Victims,
        event: "Callable[..., None]",
    ) -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._victims = victims
        self._settings = settings
        self._scripts_dir = scripts_dir
        self._in_vm = in_vm
        self._event = event
        self._open = 0
        self._scripts = 0
        # Programs that have not completed.
        self._live: set[Process] = set()
        # Running programs by pid.
        self._processes: dict[int, Process] = {}
        # Programs that have ended, by pid, oldest first.
        self._ended: dict[int, Process] = {}
        # True from `settle`, or the loss of the host, to the next hello.
        self._settled = False
        # True while output is held: from `settle` until the connections should have ended.
        self._holding = False
        self._hold: Timer | None = None
        # True while user code is frozen for a save, and the agent changes no file of its own on the disk either.
        self._frozen = False
        # Ends a `settle` that takes too long, or that no save followed.
        self._late: Timer | None = None
        # Which `settle` counts. The end of an earlier one changes nothing.
        self._settles = 0
        # Scripts to remove once user code is thawed.
        self._ended_scripts: list[list[str]] = []
        self.fork_server: ForkServer | None = None

    def accept(self, connection: Connection, first: bytes) -> None:
        if self._open >= limits.OPERATIONS:
            _answer_error(
                connection,
                RequestError(
                    "exhausted",
                    f"{limits.OPERATIONS} operations are running, which is the limit; retry when one has ended",
                ),
            )
            return
        self._open += 1
        counted = [True]

        def over() -> None:
            if counted:
                counted.clear()
                self._open -= 1

        def serve(fields: dict[str, object], body: bytes, rest: bytes) -> None:
            self._serve(connection, fields, body, rest, over)

        _Reader(self._loop, connection, serve, over).receive(first)

    def _serve(
        self,
        connection: Connection,
        fields: dict[str, object],
        body: bytes,
        rest: bytes,
        over: "Callable[[], None]",
    ) -> None:
        request = Request(fields)
        operation = request.text("op")
        try:
            if operation in ("exec", "python"):
                self._run(operation, request, connection, body, rest, over)
            elif operation == "tcp":
                self._tcp(request, connection, rest, over)
            elif operation in WORKER_OPERATIONS:
                who = self._account(request)
                start_worker(
                    self._loop,
                    connection,
                    operation,
                    request,
                    who,
                    rest,
                    self._cgroups.files,
                    over,
                )
            elif operation == "attach":
                self._attach(request, connection, rest)
                over()
            elif operation == "logs":
                process = self._any_process(request)
                process.observe(connection, request.offsets("from"), over)
            elif operation == "settle":
                self._settle(request, connection, over)
            elif operation == "update":
                self._update(request, connection, over)
            else:
                _answer(connection, self._simple(operation, request))
                over()
        except RequestError:
            raise
        except OSError as error:
            raise from_errno(error.errno, operation) from error

    def _simple(self, operation: str, request: Request) -> dict[str, object]:
        if operation == "signal":
            name = request.text("signal")
            if name not in _SIGNALS:
                raise RequestError("invalid_request", f"signal {name!r} can't be sent")
            self._process(request).kill(getattr(_signal, name))
            return {}
        if operation == "resize":
            size = request.size("size")
            if size is None:
                raise RequestError("invalid_request", "size is missing")
            self._process(request).resize(size)
            return {}
        if operation == "processes":
            return {
                name: [process.describe() for process in processes.values()]
                for name, processes in (("processes", self._processes), ("ended", self._ended))
            }
        if operation == "stats":
            return stats.read(self._cgroups)
        raise RequestError("invalid_request", f"unknown operation {operation[:40]!r}")

    def _process(self, request: Request) -> Process:
        pid = request.number("pid", 0, 1, 2**31 - 1)
        process = self._processes.get(pid)
        if process is None:
            raise RequestError("not_found", f"no operation runs process {pid}")
        return process

    def _any_process(self, request: Request) -> Process:
        """A program that runs, or one that has ended and is kept."""
        pid = request.number("pid", 0, 1, 2**31 - 1)
        process = self._processes.get(pid) or self._ended.get(pid)
        if process is None:
            raise RequestError("not_found", f"no program {pid} runs, or is kept after its end")
        return process

    def _attach(self, request: Request, connection: Connection, rest: bytes) -> None:
        offsets = request.offsets("from")
        process = self._any_process(request)
        if offsets is None and not process.is_unclaimed:
            process = self._process(request)
        process.attach(connection, rest, offsets)
        if self._settled:
            process.settle(self._holding)

    def _account(self, request: Request) -> account.Account:
        return account.find(request.optional_text("user"), self._in_vm, self._settings.environment)

    # update, settle

    def _update(self, request: Request, connection: Connection, over: "Callable[[], None]") -> None:
        def updated(problem: str | None) -> None:
            if problem is None:
                _answer(connection, {})
            else:
                _answer_error(connection, RequestError("guest_failed", problem))
            over()

        self._settings.update(request, updated)

    def _settle(self, request: Request, connection: Connection, over: "Callable[[], None]") -> None:
        drop_caches = request.flag("dropCaches", False)
        must_freeze = request.flag("mustFreeze", False)
        freeze = request.flag("freeze", False) or must_freeze
        volumes = self._settings.volumes if request.flag("freezeVolumes", False) else None
        last = None
        if volumes:
            from .volumes import freeze as freeze_volumes

            last = lambda: freeze_volumes(volumes)  # noqa: E731
        self._begin_settle()
        settle = self._settles

        def flushed(error: RequestError | None) -> None:
            if settle != self._settles:
                error = RequestError("guest_failed", "the sync took too long, or another save began")
            else:
                self._stop_timers()
                self._hold = self._loop.after(limits.SETTLE_HOLD_S, self._release_outputs)
                if error is None:
                    self._late = self._loop.after(limits.SETTLE_FREEZE_S, self._thaw)
                else:
                    self._thaw()
            if error is None:
                _answer(connection, {})
            else:
                _answer_error(connection, error)
            over()

        try:
            if freeze:
                self._frozen = True
                self._cgroups.freeze_to_save()
            wait = self._cgroups.wait_frozen if freeze else None
            start_flush(self._loop, self._in_vm, drop_caches, wait, must_freeze, flushed, last)
        except OSError:
            self._thaw()
            raise
        self._late = self._loop.after(limits.SETTLE_S, self._give_up)
        self._settled = self._holding = True
        for process in self._live:
            process.settle(True)

    def _begin_settle(self) -> None:
        """A `settle` under way no longer counts: its host has gone, or has waited too long."""
        self._settles += 1
        self._stop_timers()

    def _give_up(self) -> None:
        self._begin_settle()
        self._thaw()
        self._release_outputs()

    def _thaw(self) -> None:
        self._frozen = False
        self._cgroups.thaw_after_save()
        for made in self._ended_scripts:
            _remove_script(made)
        self._ended_scripts.clear()

    def _stop_timers(self) -> None:
        for timer in (self._hold, self._late):
            if timer is not None:
                timer.cancel()

    def _release_outputs(self) -> None:
        self._holding = False
        # A copy: a program that completes leaves the set.
        for process in list(self._live):
            process.release()

    def lose_host(self) -> None:
        """Called when the control connection has ended: until the next hello, programs outlive their connections."""
        self._settled = True
        for process in list(self._live):
            process.settle(False)

    def unsettle(self) -> None:
        """Called at a hello: programs started from now on end with their connections again."""
        if self._settled:
            self._settled = False
            self._give_up()

    # exec, python

    def _run(
        self,
        kind: str,
        request: Request,
        connection: Connection,
        body: bytes,
        rest: bytes,
        over: "Callable[[], None]",
    ) -> None:
        who = self._account(request)
        timeout_ms = request.number("timeoutMs", 0, 0, _TIMEOUT_MS_MAX)
        output_max = request.number("outputBytesMax", 0, 0, 2**53)
        options = Options(
            kind=kind,
            user=who.name,
            tag=request.optional_text("tag"),
            stdin=request.flag("stdin", True),
            size=request.size("pty"),
            timeout_s=timeout_ms / 1000 if timeout_ms else None,
            output_max=output_max or self._settings.output_max,
            detached=request.flag("detached", False),
        )
        is_image = self._settings.environment is not None
        env = account.user_env(self._settings.env, who, request.env("env"), keeps_home=is_image)
        if options.size is not None:
            env.setdefault("TERM", "xterm-256color")
        argv = request.texts("args" if kind == "python" else "argv")
        cwd = who.resolve(request.text("cwd", "."))
        made: list[str] = []
        if kind == "exec":
            if not argv or not argv[0]:
                raise RequestError("invalid_request", "argv is empty")
            source = None
        else:
            source = self._script(request, body, who, cwd, made)
        launch = Launch(
            argv,
            env,
            cwd,
            who.uid,
            who.gid,
            who.groups,
            self._cgroups.create(),
            options.size is not None,
            source,
        )

        def complete(process: Process, result: dict[str, object]) -> None:
            self._live.discard(process)
            if self._processes.get(process.pid) is process:
                del self._processes[process.pid]
            if result:
                self._keep_end(process)
            if self._frozen:
                self._ended_scripts.append(made)
            else:
                _remove_script(made)
            over()
            if result:
                self._event("exit", pid=process.pid, exit=result)

        process = Process(
            self._loop,
            self._cgroups,
            self._victims,
            launch,
            options,
            self._running,
            complete,
        )
        self._live.add(process)
        connection.read(False)
        process.start(connection, rest, self._launcher(kind, request))
        if self._settled:
            process.settle(self._holding)

    def _running(self, process: Process) -> None:
        self._processes[process.pid] = process
        self._ended.pop(process.pid, None)

    def _keep_end(self, process: Process) -> None:
        """Keeps the end, and drops an earlier one: the oldest that a connection got, or else the oldest."""
        self._ended.pop(process.pid, None)
        self._ended[process.pid] = process
        if len(self._ended) > limits.ENDED_PROCESSES:
            got = (pid for pid, ended in self._ended.items() if ended.was_delivered)
            del self._ended[next(got, next(iter(self._ended)))]

    def _launcher(self, kind: str, request: Request) -> "Callable[[Job], None]":
        if kind == "exec":
            return lambda job: fork_child(self._loop, job, spawn.execute)
        server = self.fork_server
        if server is None:
            return lambda job: fork_child(self._loop, job, spawn.execute_script)
        wait_warm = request.flag("waitWarm", True)
        return lambda job: server.launch(job, wait_warm)

    def _script(
        self, request: Request, body: bytes, who: account.Account, cwd: str, made: list[str]
    ) -> dict[str, str]:
        path = request.optional_text("path")
        if path is not None:
            return {"path": os.path.normpath(os.path.join(cwd, path))}
        name = request.optional_text("name")
        if name is None:
            return {"code": body.decode("utf-8", "surrogateescape")}
        if "/" in name or name in ("", ".", "..") or len(name) > _SCRIPT_NAME_CHARACTERS:
            raise RequestError(
                "invalid_request",
                f"name is not a plain file name of at most {_SCRIPT_NAME_CHARACTERS} characters",
            )
        if self._frozen:
            raise RequestError("guest_failed", "the sandbox is being saved; run the script again")
        # Root owns the parent, so the user can't replace the directory. Root of the sandbox can: links there are not
        # followed (init.c, MS_NOSYMFOLLOW).
        self._scripts += 1
        directory = f"{self._scripts_dir}/{self._scripts}"
        file = f"{directory}/{name}"
        os.makedirs(self._scripts_dir, exist_ok=True)
        os.mkdir(directory, 0o700)
        made.append(directory)
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            made.append(file)
            with open(fd, "wb") as out:
                out.write(body)
            if os.geteuid() == 0:
                os.chown(file, who.uid, who.gid)
                os.chown(directory, who.uid, who.gid)
        except OSError:
            _remove_script(made)
            raise
        return {"path": file}

    # tcp

    def _tcp(
        self, request: Request, connection: Connection, rest: bytes, over: "Callable[[], None]"
    ) -> None:
        port = request.number("port", 0, 1, 65535)
        connection.read(False)
        for family, address in ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1")):
            try:
                sock = _socket.socket(family, _socket.SOCK_STREAM)
            except OSError:
                continue  # A kernel without IPv6.
            try:
                # Connecting over loopback never blocks.
                sock.connect((address, port))
            except OSError:
                sock.close()
                continue
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            server = Connection(self._loop, sock)
            connection.send(b'{"ok":true}\n')
            splice(connection, server, over)
            server.send(rest)
            connection.read(True)
            return
        raise RequestError("not_found", f"nothing listens on port {port} in the guest")


class _Reader:
    """Reads one request: the line, then the `moreBytes` and `bodyBytes` that it announces."""

    def __init__(
        self,
        loop: Loop,
        connection: Connection,
        serve: "Callable[[dict[str, object], bytes, bytes], None]",
        over: "Callable[[], None]",
    ) -> None:
        self._connection = connection
        self._serve = serve
        self._over = over
        self._line = LineDecoder(limits.REQUEST_LINE_BYTES)
        self._frames = FrameDecoder((BODY,))
        self._fields: dict[str, object] | None = None
        self._more = self._wanted = 0
        self._body = bytearray()
        self._timer = loop.after(limits.REQUEST_WAIT_S, connection.abort)
        connection.on_data = self.receive
        connection.on_end = self._ended

    def receive(self, data: bytes) -> None:
        try:
            self._receive(data)
        except (RequestError, ProtocolError, ValueError) as error:
            self._ended()
            self._connection.on_end = lambda: None
            known = isinstance(error, RequestError)
            _answer_error(
                self._connection,
                error if known else RequestError("invalid_request", f"bad request: {error}"),
            )

    def _receive(self, data: bytes) -> None:
        if self._fields is None:
            got = self._line.receive(data)
            if got is None:
                return
            line, data = got
            self._fields = self._parse(line)
        # Bytes after an announced body are stdin frames for the operation.
        while len(self._body) < self._wanted and data:
            size = self._frames.missing(data)
            for _kind, payload in self._frames.receive(data[:size]):
                self._body += payload
            data = data[size:]
            if len(self._body) > self._wanted:
                raise ProtocolError("the body is longer than announced")
        if len(self._body) == self._wanted:
            self._complete(data)

    def _parse(self, line: bytes) -> dict[str, object]:
        request = Request(wire_json.loads(line))
        if request.fields.get("v") != PROTOCOL:
            raise RequestError(
                "protocol_version",
                f"the agent speaks protocol {PROTOCOL}, the request {request.fields.get('v')!r}",
            )
        self._more = request.number("moreBytes", 0, 0, limits.BODY_BYTES)
        self._wanted = self._more + request.number("bodyBytes", 0, 0, limits.BODY_BYTES)
        return request.fields

    def _complete(self, rest: bytes) -> None:
        self._timer.cancel()
        self._connection.on_data = lambda data: None
        self._connection.on_end = self._over
        assert self._fields is not None
        fields = self._fields
        if self._more:
            more = wire_json.loads(bytes(self._body[: self._more]))
            fields = {**fields, **Request(more).fields}
        self._serve(fields, bytes(self._body[self._more :]), rest)

    def _ended(self) -> None:
        self._timer.cancel()
        self._over()


def _answer(connection: Connection, fields: dict[str, object]) -> None:
    connection.send(wire_json.dumps({"ok": True, **fields}) + b"\n")
    connection.finish()


def _answer_error(connection: Connection, error: RequestError) -> None:
    message = str(error)[: limits.MESSAGE_CHARACTERS]
    connection.send(wire_json.dumps({"ok": False, "code": error.code, "message": message}) + b"\n")
    connection.finish()


def _remove_script(made: list[str]) -> None:
    """Removes the script, then its directory; files that the script wrote beside itself stay, with the directory."""
    try:
        for path in reversed(made):
            (os.rmdir if path == made[0] else os.unlink)(path)
    except OSError as error:
        print(f"neurovisor agent: script directory stays: {error}", file=sys.stderr)
