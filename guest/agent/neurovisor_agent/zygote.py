"""The fork server: a process that has imported the warm list and forks once per script.

The agent sends the set-up (its length in 4 bytes, then JSON: `warm`, `rehearse`, `env`), then per launch one byte with
five descriptors (launch as JSON in a memfd, stdin, stdout, stderr, status pipe). It reads JSON lines: `warm` once, then
per launch, by its number from 0, `started` or `failed`, and `ended`. The child itself sends `started`, so that the kernel
tells the agent its pid (SCM_CREDENTIALS): the one that this process knows may be of another namespace.

It is an interpreter of its own (interpreter.py), so that nothing of the agent's is in the memory of a script, and so
that it can be another Python than the agent's.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import gc
import os
import select
import sys
import time

from . import script, spawn, wire_json
from .spawn import Launch

_FDS = 5
_MODULE_ERROR_CHARACTERS = 300
# As JSON, in which a character may have 12; with 64 modules within `limits.WARM_REPORT_BYTES`.
_MODULE_ERROR_BYTES = 600


def serve(fd: int) -> None:
    """Serves the agent at the socket `fd`; never returns."""
    try:
        os.set_inheritable(fd, False)
        sock = _socket.socket(fileno=fd)
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        setup: dict = wire_json.loads(_receive(sock, int.from_bytes(_receive(sock, 4), "big")))  # type: ignore[assignment]
        env, warm, rehearse = setup["env"], setup["warm"], setup["rehearse"]
        script.prepare(has_user=False)
        os.environ.clear()
        os.environ.update(env)
        # Scripts have all of it. What a user can change would run as root here.
        script.extend_path(":".join(filter(spawn.is_roots, env.get("PYTHONPATH", "").split(":"))))
        _send(sock, {"type": "warm", "modules": [_import(name, rehearse) for name in warm]})
        # Imported objects are never garbage: freezing keeps the collector from touching and so copying their pages.
        gc.collect()
        gc.freeze()
        _serve(sock)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(1)


def _receive(sock: "_socket.socket", size: int) -> bytes:
    """Exits when the agent is gone."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def _import(name: str, rehearse: bool) -> dict[str, object]:
    start = time.monotonic()
    problem = None
    try:
        __import__(name)
        if rehearse:
            from .rehearse import rehearse as first_use

            first_use(name)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"[:_MODULE_ERROR_CHARACTERS]
        while len(wire_json.dumps(problem)) > _MODULE_ERROR_BYTES:
            problem = problem[: len(problem) // 2]
    return {
        "name": name,
        "durationMs": round((time.monotonic() - start) * 1000, 1),
        "error": problem,
    }


def _serve(sock: "_socket.socket") -> None:
    poll = select.epoll()
    poll.register(sock.fileno(), select.EPOLLIN)
    # By pidfd: pid, number of the launch.
    children: dict[int, tuple[int, int]] = {}
    launches = 0
    while True:
        for fd, _events in poll.poll():
            if fd == sock.fileno():
                pid = _launch(sock, launches)
                if pid is not None:
                    pidfd = os.pidfd_open(pid)
                    children[pidfd] = pid, launches
                    poll.register(pidfd, select.EPOLLIN)
                launches += 1
            else:
                poll.unregister(fd)
                os.close(fd)
                pid, number = children.pop(fd)
                status = os.waitpid(pid, 0)[1]
                _send(sock, {"type": "ended", "launch": number, "status": status})


def _launch(sock: "_socket.socket", number: int) -> int | None:
    fds = _receive_fds(sock)
    pid = -1
    try:
        pid = os.fork()
        if pid == 0:
            _send(sock, {"type": "started", "launch": number, "pid": os.getpid()})
            # Here, so that no script finds in its memory what earlier ones, of any user, were given.
            launch = Launch.read(fds[0])
            spawn.run_child(launch, (fds[1], fds[2], fds[3]), fds[4], script.run)
        return pid
    except OSError as error:
        if pid == 0:
            os._exit(spawn.FAILED)
        _send(sock, {"type": "failed", "launch": number, "errno": error.errno or 0})
        return None
    finally:
        if pid != 0:
            for fd in fds:
                os.close(fd)


def _receive_fds(sock: "_socket.socket") -> list[int]:
    """Receives one launch's descriptors. Exits when the agent is gone."""
    data, ancillary, _flags, _address = sock.recvmsg(1, _socket.CMSG_SPACE(_FDS * 4))
    if not data:
        os._exit(0)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += [
                int.from_bytes(payload[at : at + 4], sys.byteorder)
                for at in range(0, len(payload), 4)
            ]
    assert len(fds) == _FDS
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _send(sock: "_socket.socket", message: dict[str, object]) -> None:
    sock.sendall(wire_json.dumps(message) + b"\n")
