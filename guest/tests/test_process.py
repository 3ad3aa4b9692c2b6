"""Starts and ends of programs over the agent's own loop: the states, and release when descriptors run out."""

import contextlib
import gc
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import account, cgroup, limits, spawn
from neurovisor_agent.account import Account
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.connection import Connection
from neurovisor_agent.fork_server import ForkServer, fork_child
from neurovisor_agent.framing import CONTROL, STDERR, STDOUT, FrameDecoder
from neurovisor_agent.loop import IN, Loop
from neurovisor_agent.operations import Operations
from neurovisor_agent.process import Process
from neurovisor_agent.process_state import IllegalTransition
from neurovisor_agent.request import RequestError
from neurovisor_agent.settings import Settings
from neurovisor_agent.victims import Victims

# More than any start opens at once.
DESCRIPTORS_MAX = 14
GIVE_UP_S = 20.0


class Stop(BaseException):
    """Leaves `Loop.run`, which survives every Exception."""


class TooLate(BaseException):
    """The loop did not get there within `GIVE_UP_S`."""


class Rig:
    """An agent's operations without a VM. The cgroups are plain directories, which no process can join."""

    def __init__(self, test: unittest.TestCase) -> None:
        self.test = test
        # Not a TemporaryDirectory: a forked interpreter that ends would remove it.
        root = Path(tempfile.mkdtemp())
        test.addCleanup(shutil.rmtree, root)
        self.user = root / "cgroup/user"
        self.user.mkdir(parents=True)
        (root / "cgroup/cgroup.subtree_control").touch()
        for name in ("memory.max", "memory.high", "pids.max"):
            (self.user / name).touch()
        self.scripts = root / "scripts"
        self.scripts.mkdir()
        # Read once: looking an account up takes a descriptor.
        own = Account("tester", os.geteuid(), os.getegid(), [], str(root))
        test.enterContext(mock.patch.object(account, "find", lambda *_arguments: own))
        self.loop = Loop()
        test.addCleanup(self.loop._epoll.close)
        self.cgroups = Cgroups(str(root / "cgroup"))
        settings = Settings(self.loop, self.cgroups, in_vm=False)
        self.operations = Operations(
            self.loop,
            self.cgroups,
            settings,
            str(self.scripts),
            False,
            Victims(self.loop, False),
            lambda _kind, **_fields: None,
        )

    def run_until(self, done: Callable[[], bool]) -> None:
        def look() -> None:
            if done():
                raise Stop
            self.loop.after(0.005, look)

        def give_up() -> None:
            raise TooLate

        late = self.loop.after(GIVE_UP_S, give_up)
        look_now = self.loop.after(0, look)
        try:
            self.loop.run()
        except Stop:
            late.cancel()
            look_now.cancel()

    def run_for(self, seconds: float) -> None:
        over: list[bool] = []
        self.loop.after(seconds, lambda: over.append(True))
        self.run_until(lambda: bool(over))

    def request(self, fields: dict[str, object], body: bytes, spare: int | None) -> dict:
        """The answer to one request that is served with `spare` free descriptors; None: no such limit."""
        ours, theirs = socket.socketpair()
        got = bytearray()
        ended = [False]

        def receive(_events: int) -> None:
            data = ours.recv(65536)
            got.extend(data)
            if not data:
                self.loop.unwatch(ours.fileno())
                ended[0] = True

        self.loop.watch(ours.fileno(), IN, receive)
        line = json.dumps({"v": 1, "bodyBytes": len(body), "stdin": False, **fields}).encode()
        frames = b"\x05" + len(body).to_bytes(4, "big") + body if body else b""
        connection = Connection(self.loop, socket_of(theirs))
        with exhausted(spare):
            self.operations.accept(connection, line + b"\n" + frames)
            self.run_until(lambda: b"\n" in got)
        self.run_until(lambda: ended[0])
        ours.shutdown(socket.SHUT_WR)
        self.run_until(lambda: connection.closed and not self.operations._live)
        ours.close()
        return json.loads(bytes(got).split(b"\n", 1)[0])

    def left(self) -> tuple[list[str], list[str]]:
        """Remaining cgroups and script directories."""
        groups = [path.name for path in self.user.iterdir() if path.name.startswith("p") and path.is_dir()]
        return groups, [path.name for path in self.scripts.iterdir()]


def socket_of(sock: socket.socket) -> socket.socket:
    return socket.socket(fileno=sock.detach())


class exhausted:
    """Limits this process to `spare` free descriptors."""

    def __init__(self, spare: int | None) -> None:
        self.spare = spare
        self.held: list[int] = []

    def __enter__(self) -> None:
        if self.spare is None:
            return
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd.split(" ")[0]) for fd in open_files())
        null = os.open("/dev/null", os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2 + DESCRIPTORS_MAX, self.limits[1]))
        self.held = [null]
        while True:
            try:
                self.held.append(os.dup(null))
            except OSError:
                break
        for _ in range(self.spare):
            os.close(self.held.pop())

    def __exit__(self, *_error: object) -> None:
        if self.spare is not None:
            for fd in self.held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)


def open_files() -> set[str]:
    """Open descriptors and their targets, without the one that lists them."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue
    return found


class Peer:
    """The host's end of one operation, which reads only when it is told to."""

    def __init__(self, rig: Rig, fields: dict[str, object]) -> None:
        self.rig = rig
        self.ours, theirs = socket.socketpair()
        rig.test.addCleanup(self.ours.close)
        self.ours.setblocking(False)
        self.got = bytearray()
        self.has_ended = False
        self.connection = Connection(rig.loop, socket_of(theirs))
        rig.operations.accept(self.connection, json.dumps({"v": 1, **fields}).encode() + b"\n")

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self.ours.recv(65536):
                self.got += data
            self.has_ended = True

    def answer(self) -> dict:
        self.rig.run_until(lambda: self.read() or b"\n" in self.got)
        return json.loads(bytes(self.got).partition(b"\n")[0])

    def frames(self) -> list[tuple[int, bytes]]:
        """Everything after the answer, up to the end of the connection."""
        self.rig.run_until(lambda: self.read() or self.has_ended)
        return FrameDecoder((STDOUT, STDERR, CONTROL)).receive(bytes(self.got).partition(b"\n")[2])

    def leave(self) -> None:
        self.ours.close()
        self.rig.run_until(lambda: self.connection.closed)


class Logs(unittest.TestCase):
    def setUp(self) -> None:
        gc.collect()
        self.rig = Rig(self)
        self.enterContext(mock.patch.object(self.rig.cgroups, "create", lambda: None))
        self.enterContext(mock.patch.object(limits, "HOST_LOSS_S", 0.05))

    def start(self, script: str, **fields: object) -> tuple[Peer, int]:
        peer = Peer(self.rig, {"op": "exec", "argv": ["sh", "-c", script], **fields})
        return peer, peer.answer()["pid"]

    def logs(self, pid: int, stdout: int = 0) -> Peer:
        return Peer(self.rig, {"op": "logs", "pid": pid, "from": {"stdout": stdout, "stderr": 0}})

    def test_an_ended_program_gives_its_newest_output_and_its_end_any_number_of_times(self) -> None:
        script = "head -c 100000 /dev/zero; echo end; echo oops >&2; exit 3"
        peer, pid = self.start(script, detached=True, stdin=False)
        peer.leave()
        self.rig.run_until(lambda: not self.rig.operations._live)
        for _ in range(2):
            peer = self.logs(pid)
            answer = peer.answer()
            begin = 100_004 - limits.KEPT_BYTES
            self.assertEqual(answer["from"], {"stdout": begin, "stderr": 0})
            self.assertEqual(answer["to"], {"stdout": 100_004, "stderr": 5})
            stdout, stderr, end = peer.frames()
            self.assertEqual(stdout, (STDOUT, bytes(limits.KEPT_BYTES - 4) + b"end\n"))
            self.assertEqual(stderr, (STDERR, b"oops\n"))
            self.assertEqual(json.loads(end[1])["exitCode"], 3)
        self.assertEqual(self.rig.operations._open, 0)

    def test_a_reader_takes_no_streams_and_sees_later_output_once(self) -> None:
        peer, pid = self.start("echo one; read a; echo $a")
        first = self.logs(pid)
        first.answer()
        self.rig.run_until(lambda: first.read() or b"one" in first.got)
        late = self.logs(pid, 4)
        self.assertEqual(late.answer()["from"]["stdout"], 4)
        only_end = Peer(self.rig, {"op": "logs", "pid": pid})
        peer.ours.send(b"\x01\0\0\0\x04two\n")
        self.assertEqual([data for kind, data in first.frames() if kind == STDOUT], [b"one\n", b"two\n"])
        self.assertEqual([data for kind, data in late.frames() if kind == STDOUT], [b"two\n"])
        self.assertEqual([kind for kind, _ in only_end.frames()], [CONTROL])
        self.assertEqual(b"".join(data for kind, data in peer.frames() if kind == STDOUT), b"one\ntwo\n")
        self.assertEqual(self.rig.operations._open, 0)

    def test_a_reader_that_falls_behind_is_cut_off_and_the_program_is_not_stopped(self) -> None:
        peer, pid = self.start("read a; head -c 3000000 /dev/zero", detached=True)
        slow = self.logs(pid)
        slow.answer()
        peer.ours.send(b"\x01\0\0\0\x01\n")
        self.rig.run_until(lambda: peer.read() or not self.rig.operations._live)
        frames = slow.frames()
        got = sum(len(data) for kind, data in frames if kind == STDOUT)
        self.assertLess(got, 3_000_000)
        self.assertNotIn(CONTROL, [kind for kind, _ in frames])
        again = self.logs(pid, got)
        self.assertEqual(again.answer()["from"]["stdout"], 3_000_000 - limits.KEPT_BYTES)
        self.assertEqual(self.rig.operations._open, 0)

    def test_offsets_beyond_the_output_are_refused(self) -> None:
        _, pid = self.start("read a")
        for operation in ("logs", "attach"):
            request = {"op": operation, "pid": pid, "from": {"stdout": 1, "stderr": 0}}
            self.assertEqual(Peer(self.rig, request).answer()["code"], "invalid_request")
        self.assertEqual(Peer(self.rig, {"op": "logs", "pid": 2**30}).answer()["code"], "not_found")
        self.rig.operations._processes[pid].kill(9)
        self.rig.run_until(lambda: not self.rig.operations._live)

    def test_attach_continues_at_an_offset_even_after_the_end_was_delivered(self) -> None:
        peer, pid = self.start("echo hello; exit 4", stdin=False)
        peer.frames()
        self.assertEqual(Peer(self.rig, {"op": "attach", "pid": pid}).answer()["code"], "not_found")
        again = Peer(self.rig, {"op": "attach", "pid": pid, "from": {"stdout": 2, "stderr": 0}})
        self.assertEqual(again.answer()["from"], {"stdout": 2, "stderr": 0})
        (_, data), (_, end) = again.frames()
        self.assertEqual((data, json.loads(end)["exitCode"]), (b"llo\n", 4))

    def test_few_ended_programs_are_kept_without_their_arguments_and_undelivered_ones_longest(self) -> None:
        self.enterContext(mock.patch.object(limits, "ENDED_PROCESSES", 3))
        peer, first = self.start("sleep 0.1; exit 9", detached=True, stdin=False, env={"A": "x" * 1000})
        peer.leave()
        self.rig.run_until(lambda: not self.rig.operations._live)
        for _ in range(5):
            self.start("exit 0", stdin=False)[0].frames()
        ended = self.rig.operations._ended
        self.assertEqual(len(ended), 3)
        self.assertEqual(ended[first].launch.env, {})
        listed = Peer(self.rig, {"op": "processes"}).answer()
        self.assertEqual(listed["processes"], [])
        self.assertEqual([one["exit"]["exitCode"] for one in listed["ended"]], [9, 0, 0])

    def test_a_client_that_leaves_ends_its_program_and_a_lost_host_does_not(self) -> None:
        peer, pid = self.start("echo up; exec sleep 1000")
        self.rig.run_until(lambda: peer.read() or b"up" in peer.got)
        peer.leave()
        self.rig.run_until(lambda: not self.rig.operations._live)
        self.assertEqual(self.rig.operations._ended[pid]._result["signal"], "SIGKILL")
        for host_first in (True, False):
            peer, pid = self.start("read a; echo late; exit 5")
            if host_first:
                self.rig.operations.lose_host()
            peer.leave()
            if not host_first:
                self.rig.operations.lose_host()
            self.rig.run_for(0.2)
            self.rig.operations.unsettle()
            again = Peer(self.rig, {"op": "attach", "pid": pid, "from": {"stdout": 0, "stderr": 0}})
            again.answer()
            again.ours.send(b"\x01\0\0\0\x01\n")
            (_, data), (_, end) = again.frames()
            self.assertEqual((data, json.loads(end)["exitCode"]), (b"late\n", 5))


class Exhaustion(unittest.TestCase):
    def setUp(self) -> None:
        # Closes loops of other tests, whose descriptors would otherwise vanish during this one.
        gc.collect()

    def check(self, rig: Rig, fields: dict[str, object], body: bytes = b"") -> None:
        """With ever more descriptors the request fails and leaves nothing, until there are enough."""
        before = open_files()
        answers = []
        for spare in range(DESCRIPTORS_MAX):
            answer = rig.request(fields, body, spare)
            answers.append(answer["ok"])
            # A child that could not start its program reports that before it exits: its pidfd stays until then.
            with contextlib.suppress(TooLate):
                rig.run_until(lambda: open_files() == before)
            with self.subTest(spare=spare):
                if not answer["ok"]:
                    self.assertEqual(answer["code"], "exhausted", answer)
                self.assertEqual(open_files(), before)
                self.assertEqual(rig.left(), ([], []))
                self.assertEqual(rig.operations._open, 0)
        self.assertEqual((answers[0], answers[-1]), (False, True), answers)

    def without_cgroups(self) -> Rig:
        rig = Rig(self)
        self.enterContext(mock.patch.object(rig.cgroups, "create", lambda: None))
        return rig

    def test_exec_with_pipes_leaves_nothing_when_it_fails(self) -> None:
        for stdin in (True, False):
            self.check(self.without_cgroups(), {"op": "exec", "argv": ["true"], "stdin": stdin})

    def test_exec_on_a_terminal_leaves_nothing_when_it_fails(self) -> None:
        self.check(self.without_cgroups(), {"op": "exec", "argv": ["true"], "pty": {"cols": 80, "rows": 24}})

    def test_python_with_a_script_file_leaves_nothing_when_it_fails(self) -> None:
        self.check(self.without_cgroups(), {"op": "python", "name": "a.py", "args": []}, b"pass")

    def test_python_in_the_fork_server_leaves_nothing_when_it_fails(self) -> None:
        rig = self.without_cgroups()
        warmed: list[object] = []
        server = ForkServer(rig.loop, [], False, dict(os.environ), Cgroups(None), warmed.extend)
        rig.operations.fork_server = server
        rig.run_until(lambda: server._is_warm)
        try:
            self.check(rig, {"op": "python", "name": "a.py", "args": []}, b"pass")
        finally:
            server.close()
            rig.run_until(lambda: server._connection is None)

    def test_the_fork_server_starts_once_there_are_descriptors_again(self) -> None:
        rig = self.without_cgroups()
        warmed: list[list[object]] = []
        with exhausted(1):
            server = ForkServer(rig.loop, [], False, dict(os.environ), Cgroups(None), warmed.append)
            rig.run_for(0.1)
            self.assertFalse(server._is_warm)
        try:
            rig.run_until(lambda: bool(warmed))
        finally:
            server.close()
            rig.run_until(lambda: server._connection is None)

    def test_a_closed_fork_server_is_not_started_again(self) -> None:
        rig = self.without_cgroups()
        with exhausted(0):
            server = ForkServer(rig.loop, [], False, dict(os.environ), Cgroups(None), lambda _modules: self.fail())
        server.close()
        rig.run_for(2 * limits.FORK_SERVER_RETRY_S)
        self.assertIsNone(server._connection)

    def test_the_cgroup_of_a_failed_start_is_removed(self) -> None:
        rig = Rig(self)
        for spare in range(4):
            answer = rig.request({"op": "exec", "argv": ["true"]}, b"", spare)
            self.assertEqual(answer["code"], "exhausted", answer)
            self.assertEqual(rig.left(), ([], []))
        self.assertEqual(rig.cgroups._count, 4)


class States(unittest.TestCase):
    def setUp(self) -> None:
        gc.collect()
        self.rig = Rig(self)
        self.enterContext(mock.patch.object(self.rig.cgroups, "create", lambda: None))

    def run_one(self, argv: list[str]) -> Process:
        """A program's Process after its end."""
        seen: list[Process] = []
        start = Process.start

        def note(process: Process, *arguments: object) -> None:
            seen.append(process)
            start(process, *arguments)

        with mock.patch.object(Process, "start", note):
            self.rig.request({"op": "exec", "argv": argv}, b"", None)
        return seen[0]

    def test_a_second_end_is_refused_and_changes_nothing(self) -> None:
        for argv, state in (["true"], "complete"), (["/nowhere"], "refused"):
            process = self.run_one(argv)
            self.assertEqual(process._state, state)
            before = dict(vars(process))
            for call in (process._finish, lambda p=process: p.start(None, b"", lambda _job: self.fail())):
                with self.assertRaises(IllegalTransition):
                    call()
            self.assertEqual(vars(process), before)

    def test_only_the_first_reason_of_a_failed_start_counts(self) -> None:
        process = self.run_one(["/nowhere"])
        self.enterContext(mock.patch.object(process, "_on_complete", self.fail))
        process._refuse(RequestError("guest_failed", "later"))
        self.assertEqual(process._state, "refused")

    def start_with(self, code: str, **fields: object) -> dict:
        """The answer to a script that starts cold, when `code` runs in the home's site-packages before the script."""
        home = self.rig.user.parent.parent
        site = home / ".local/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        site.mkdir(parents=True, exist_ok=True)
        # `site` runs the lines of a .pth file that begin with `import`.
        (site / "first.pth").write_text("import first\n")
        (site / "first.py").write_text(code)
        cold = mock.Mock(launch=lambda job, _wait: fork_child(self.rig.loop, job, spawn.execute_script))
        self.rig.operations.fork_server = cold
        return self.rig.request({"op": "python", "args": [], **fields}, b"pass", None)

    def test_what_code_of_the_user_writes_into_the_status_pipe_is_no_reason_to_wait(self) -> None:
        reports = b"x", b"exec", b"exec x", b"exec -1", b"exec 99999999999999999999", b"cwd 2\xff", b" ", "exec ²".encode()
        for report in reports:
            code = WRITE_INTO_PIPES.format(report)
            with self.subTest(report):
                answer = self.start_with(code)
                self.assertEqual((answer["ok"], answer["code"]), (False, "guest_failed"), answer)

    def test_a_timeout_counts_from_the_fork(self) -> None:
        answer = self.start_with("import time\ntime.sleep(60)\n", timeoutMs=500)
        self.assertTrue(answer["ok"], answer)

    def test_a_timeout_sends_sigterm_once_to_each_process(self) -> None:
        place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, place)
        self.enterContext(mock.patch.object(limits, "TERM_GRACE_S", 0.2))
        # Two signals in a row would merge into one while the first is pending.
        for name in ("kill", "killpg"):
            self.enterContext(mock.patch.object(os, name, slow(getattr(os, name))))
        time_out = Process._time_out

        def of_cgroup(process: Process) -> None:
            if len(cgroup.members(str(place))) < 2:
                process._loop.after(0.01, lambda: of_cgroup(process))
                return
            process.launch.cgroup = str(place)
            time_out(process)

        self.enterContext(mock.patch.object(Process, "_time_out", of_cgroup))
        program = [sys.executable, "-c", TWO_SESSIONS, str(place)]
        self.rig.request({"op": "exec", "argv": program, "timeoutMs": 1}, b"", None)
        self.rig.run_until(lambda: (place / "member-ended").exists())
        self.assertEqual(sorted((place / "signals").read_text().split()), ["leader", "member"])


def slow(send: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """`send`, with time for the process to handle the signal."""

    def send_and_wait(pid: int, number: int) -> None:
        send(pid, number)
        time.sleep(0.05)

    return send_and_wait


# Also into the status pipe, whose number is not known.
WRITE_INTO_PIPES = """
import os, stat
for fd in range(3, 1024):
    try:
        stat.S_ISFIFO(os.fstat(fd).st_mode) and os.write(fd, {!r})
    except OSError:
        pass
"""

# A program with a second process in a session of its own: both are in the cgroup, one in the process group.
TWO_SESSIONS = """
import os, signal, sys, time
os.chdir(sys.argv[1])
def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")
member = os.fork()
name = "leader" if member else "member"
signal.signal(signal.SIGTERM, lambda *_: note("signals", name))
note("cgroup.procs", str(os.getpid()))
if member:
    time.sleep(30)
os.setsid()
for fd in range(3):
    os.close(fd)
while not os.path.exists("signals"):
    time.sleep(0.01)
time.sleep(0.5)
note("member-ended", "")
"""


if __name__ == "__main__":
    unittest.main()
