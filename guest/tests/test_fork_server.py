"""The agent's end of the fork server, against one that breaks the protocol."""

import errno
import gc
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))
sys.path.insert(0, str(Path(__file__).parent))

from neurovisor_agent import fork_server, limits, spawn, wire_json, zygote
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.fork_server import ForkServer, Job, Message, fork_child, on_exit
from neurovisor_agent.framing import ProtocolError
from neurovisor_agent.process import Process
from neurovisor_agent.spawn import Launch
from test_process import Rig

WRONG = (
    b"",
    b"{",
    b"[]",
    b"1",
    b'{"type":"other"}',
    b'{"type":["warm"]}',
    b'{"type":"warm"}',
    b'{"type":"warm","modules":{}}',
    # The host refuses such an event, and ends the sandbox.
    b'{"type":"warm","modules":[1]}',
    b'{"type":"warm","modules":[{}]}',
    b'{"type":"warm","modules":[{"name":1,"durationMs":1,"error":null}]}',
    b'{"type":"warm","modules":[{"name":"a","durationMs":-1,"error":null}]}',
    b'{"type":"warm","modules":[{"name":"a","durationMs":1e999,"error":null}]}',
    b'{"type":"warm","modules":[{"name":"a","durationMs":1,"error":7}]}',
    b'{"type":"warm","modules":[' + b",".join([b'{"name":"a","durationMs":1,"error":null}'] * 300) + b"]}",
    b'{"type":"warm","modules":[{"name":"a","durationMs":1,"error":"' + b"x" * 65536 + b'"}]}',
    b'{"type":"started","pid":7}',
    b'{"type":"started","pid":7,"launch":-1}',
    b'{"type":"started","pid":7,"launch":true}',
    b'{"type":"started","pid":7,"launch":1.0}',
    b'{"type":"started","pid":7,"launch":2147483648}',
    b'{"type":"started","launch":0}',
    b'{"type":"started","pid":0,"launch":0}',
    b'{"type":"failed","launch":0,"errno":"1"}',
    b'{"type":"ended","launch":1}',
    b'{"type":"ended","launch":1,"status":-1}',
)


class Messages(unittest.TestCase):
    def test_only_what_the_fork_server_sends_is_taken(self) -> None:
        message = Message(b'{"type":"ended","launch":7,"status":256}')
        self.assertEqual((message.kind, message.launch, message.number), ("ended", 7, 256))
        line = b'{"type":"warm","modules":[{"name":"a","durationMs":1.5,"error":null,"more":1}]}'
        self.assertEqual(Message(line).modules, [{"name": "a", "durationMs": 1.5, "error": None}])
        for line in WRONG:
            with self.subTest(line), self.assertRaises(ProtocolError):
                Message(line)


class Hostile(unittest.TestCase):
    """A fork server that is another program: it sends `lines`, then waits."""

    def setUp(self) -> None:
        gc.collect()
        self.rig = Rig(self)
        self.starts = 0
        start = ForkServer._start

        def counted(server: ForkServer) -> None:
            self.starts += 1
            start(server)

        self.enterContext(mock.patch.object(ForkServer, "_start", counted))
        self.enterContext(mock.patch.object(sys, "stderr", self.enterContext(open(os.devnull, "w"))))

    def serve(self, lines: bytes, answer: bytes = b"", sender: int = 0) -> ForkServer:
        """`answer`: sent once a launch comes, with the pid `sender` in its credentials."""

        def play(fd: int, *_more: object) -> None:
            try:
                # Its copy of the agent's end too: else it would never see that the agent is gone.
                os.dup2(fd, 3)
                os.closerange(4, 1 << 16)
                os.write(3, lines)
                sock = socket.socket(fileno=3)
                while received := sock.recv(65536):
                    if answer and received.endswith(b"L"):
                        who = struct.pack("3i", sender, os.geteuid(), os.getegid())
                        sock.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)])
            finally:
                os._exit(0)

        self.enterContext(mock.patch.object(spawn, "execute_fork_server", play))
        self.warmed: list[object] = []
        return ForkServer(self.rig.loop, [], False, {}, Cgroups(None), self.warmed.append)

    def test_a_wrong_message_ends_it_and_another_starts(self) -> None:
        unasked = b'{"type":"started","pid":7,"launch":0}', b'{"type":"ended","launch":0,"status":0}', b'{"type":"unusable"}'
        for line in (*WRONG, *unasked):
            with self.subTest(line):
                self.starts = 0
                server = self.serve(line + b"\n")
                first = server._pid
                self.rig.run_until(lambda: self.starts > 1)
                with self.assertRaises(ChildProcessError):
                    os.waitpid(first, os.WNOHANG)
                server.close()
                self.rig.run_until(lambda server=server: server._connection is None)

    @unittest.skipUnless(os.geteuid() == 0, "needs root: a forged sender")
    def test_deaths_are_forgotten_and_one_given_up_starts_again_for_a_script(self) -> None:
        now = 1000.0
        self.enterContext(mock.patch.object(fork_server, "monotonic", lambda: now))
        server = self.serve(b"wrong\n")
        self.addCleanup(server.close)
        self.rig.run_until(lambda: server._restarts > 5)
        self.assertEqual((self.starts, server._connection), (6, None))
        ended: list[object] = []

        def script() -> None:
            # A failed start is enough: what happens to the script is another test.
            with mock.patch.object(fork_server, "fork_child", lambda *_args: ended.append(1)):
                server.launch(mock.Mock(), False)

        script()
        self.assertEqual((self.starts, len(ended)), (6, 1))
        now += limits.FORK_SERVER_FORGET_S
        script()
        self.assertEqual((self.starts, len(ended)), (7, 2))
        self.rig.run_until(lambda: server._restarts > 5)
        self.assertIsNone(server._connection)
        # After a quiet time all are forgotten, but no more than there were.
        now += 100 * limits.FORK_SERVER_FORGET_S
        script()
        self.rig.run_until(lambda: server._restarts > 5)
        self.assertEqual(self.starts, 7 + 6)

    def test_one_that_names_the_agent_or_pid_1_as_a_script_ends(self) -> None:
        warm, started = b'{"type":"warm","modules":[]}\n', b'{"type":"started","pid":7,"launch":0}\n'
        for forged in (os.getpid(), 1):
            with self.subTest(forged):
                self.starts = 0
                server = self.serve(warm, answer=started, sender=forged)
                self.rig.run_until(lambda server=server: server._is_warm)
                failed: list[int] = []
                ours, theirs = os.pipe()
                launch = Launch([], {}, "/", os.geteuid(), os.getegid(), [], None, False, {"code": "pass"})
                job = Job(launch, (0, 1, 2), theirs, lambda _pid, _inner, _warm: self.fail(), failed.append, lambda _status: None)
                server.launch(job, True)
                self.rig.run_until(lambda failed=failed: bool(failed))
                for fd in (ours, theirs):
                    os.close(fd)
                self.rig.run_until(lambda: self.starts > 1)
                server.close()
                self.rig.run_until(lambda server=server: server._connection is None)

    def test_one_that_does_not_answer_a_launch_is_replaced(self) -> None:
        self.enterContext(mock.patch.object(limits, "LAUNCH_S", 0.2))
        server = self.serve(b'{"type":"warm","modules":[]}\n')
        self.rig.run_until(lambda: server._is_warm)
        failed: list[int] = []
        ours, theirs = os.pipe()
        launch = Launch([], {}, "/", os.geteuid(), os.getegid(), [], None, False, {"code": "pass"})
        job = Job(launch, (0, 1, 2), theirs, lambda _pid, _inner, _warm: self.fail(), failed.append, lambda _status: None)
        server.launch(job, True)
        self.rig.run_until(lambda: bool(failed))
        self.assertEqual(failed, [errno.ECHILD])
        for fd in (ours, theirs):
            os.close(fd)
        self.rig.run_until(lambda: self.starts > 1)
        server.close()
        self.rig.run_until(lambda: server._connection is None)

    def test_a_line_without_an_end_ends_it(self) -> None:
        self.enterContext(mock.patch.object(limits, "FORK_SERVER_LINE_BYTES", 1000))
        server = self.serve(b"x" * 2000)
        self.rig.run_until(lambda: self.starts > 1)
        server.close()
        self.rig.run_until(lambda: server._connection is None)

    def test_one_that_starts_nothing_leaves_the_script_to_a_cold_start(self) -> None:
        # Warm, but gone before the launch is answered: the program's outcome is unknown, and that is said.
        server = self.serve(json.dumps({"type": "warm", "modules": []}).encode() + b"\n")
        self.rig.run_until(lambda: server._is_warm)
        failed: list[int] = []
        launch = Launch([], {}, "/", os.geteuid(), os.getegid(), [], None, False, {"code": "pass"})
        ours, theirs = os.pipe()
        job = Job(launch, (0, 1, 2), theirs, lambda _pid, _inner, _warm: self.fail(), failed.append, lambda _status: None)
        server.launch(job, True)
        os.close(theirs)
        server.close()
        self.rig.run_until(lambda: bool(failed))
        os.close(ours)


TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
# PTRACE_SEIZE: the tracee runs on, and once it has ended only its tracer can reap it (ptrace(2)).
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()
print("traced", flush=True)
sys.stdin.read()
"""


class Ends(unittest.TestCase):
    def trace(self, pid: int) -> subprocess.Popen[str]:
        """A program of the sandbox that traces another, and does not wait for it."""
        command = [sys.executable, "-c", TRACE, str(pid)]
        tracer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(tracer.communicate)
        assert tracer.stdout is not None
        self.assertEqual(tracer.stdout.readline(), "traced\n")
        return tracer

    def test_a_child_whose_tracer_does_not_reap_it_does_not_stop_the_agent(self) -> None:
        rig = Rig(self)
        statuses: list[int] = []
        pid = os.fork()
        if pid == 0:
            signal.pause()
        on_exit(rig.loop, pid, statuses.append)
        tracer = self.trace(pid)
        os.kill(pid, signal.SIGKILL)
        rig.run_for(0.2)
        self.assertEqual(statuses, [])
        tracer.kill()
        rig.run_until(lambda: bool(statuses))
        self.assertEqual(statuses, [signal.SIGKILL])

    def test_a_fork_server_whose_tracer_does_not_reap_it_is_replaced(self) -> None:
        rig = Rig(self)
        server = ForkServer(rig.loop, [], False, {}, Cgroups(None), lambda _modules: None)
        rig.run_until(lambda: server._is_warm)
        first = server._pid
        self.trace(first)
        os.kill(first, signal.SIGKILL)
        rig.run_until(lambda: server._is_warm and server._pid != first)
        server.close()
        rig.run_until(lambda: server._connection is None)

    def test_its_end_is_noticed_though_another_process_holds_its_socket(self) -> None:
        gc.collect()
        rig = Rig(self)
        place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, place)
        # A module that leaves a process behind, as some clients do at their import.
        (place / "forks.py").write_text(FORKS)
        server = ForkServer(rig.loop, ["forks"], False, {"PYTHONPATH": str(place)}, Cgroups(None), lambda _modules: None)
        rig.run_until(lambda: server._is_warm)
        first = server._pid
        os.kill(first, signal.SIGKILL)
        rig.run_until(lambda: server._is_warm and server._pid != first)
        server.close()
        rig.run_until(lambda: server._connection is None)
        for pid in (place / "pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


FORKS = """
import os, time
pid = os.fork()
if not pid:
    time.sleep(60)
    os._exit(0)
with open(os.path.dirname(__file__) + "/pids", "a") as file:
    file.write(f"{pid} ")
"""


@unittest.skipUnless(os.geteuid() == 0, "only root gives directories away")
class Roots(unittest.TestCase):
    """The fork server is root: it runs nothing that a user of the sandbox can change."""

    def setUp(self) -> None:
        self.rig = Rig(self)
        self.enterContext(mock.patch.object(self.rig.cgroups, "create", lambda: None))
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.place.chmod(0o755)

    def give(self, *names: str) -> None:
        for name in names:
            os.chown(self.place / name, 1000, 1000, follow_symlinks=False)

    def serve(self, env: dict[str, str], warm: list[str], has_own_python: bool) -> tuple[ForkServer, list[object]]:
        reports: list[object] = []
        server = ForkServer(self.rig.loop, warm, False, env, Cgroups(None), reports.append, has_own_python)
        self.rig.operations.fork_server = server
        self.rig.run_until(lambda: bool(reports))
        return server, reports

    def close(self, server: ForkServer) -> None:
        server.close()
        self.rig.run_until(lambda: server._connection is None)

    def script(self, env: dict[str, str]) -> bool:
        answer = self.rig.request({"op": "python", "args": [], "env": env}, b"pass", None)
        self.assertTrue(answer["ok"], answer)
        return answer["warm"]

    def test_scripts_of_a_python_that_a_user_can_replace_start_cold(self) -> None:
        (self.place / "bin").mkdir()
        python = self.place / "bin/python3"
        python.write_text(f"#!/bin/sh\n[ $4 = script ] || touch {self.place}/ran-as-root\nexec {sys.executable} \"$@\"\n")
        python.chmod(0o755)
        env = {"PATH": f"{self.place}/bin:{os.environ['PATH']}"}
        server, _reports = self.serve(env, [], True)
        self.assertTrue(self.script(env))
        self.assertTrue((self.place / "ran-as-root").exists())
        self.close(server)
        (self.place / "ran-as-root").unlink()
        self.give("bin")
        server, reports = self.serve(env, [], True)
        self.rig.run_until(lambda: server._connection is None)
        self.assertFalse(self.script(env))
        self.assertEqual((reports, (self.place / "ran-as-root").exists()), ([[]], False))
        self.assertIsNone(server._retry)
        server.close()

    def test_modules_that_a_user_can_replace_are_not_warm(self) -> None:
        for name in ("own", "given"):
            (self.place / name).mkdir()
            (self.place / f"{name}/of_{name}.py").write_text(f"open({str(self.place / name)!r} + '.ran', 'w')")
        self.give("given")
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{self.place}/own:{self.place}/given:{self.place}/none"}
        server, _reports = self.serve(env, ["of_own", "of_given"], False)
        self.assertEqual([(self.place / f"{name}.ran").exists() for name in ("own", "given")], [True, False])
        self.close(server)

    def test_a_path_is_roots_with_all_that_leads_there(self) -> None:
        for name in ("own", "given", "open"):
            (self.place / name).mkdir()
            (self.place / name / "file").touch()
        (self.place / "open").chmod(0o777)
        for link, target in (("to-own", "own/file"), ("to-given", "given/file"), ("by-given", "given/link"), ("loop", "loop")):
            (self.place / link).symlink_to(target)
        (self.place / "given/link").symlink_to("../own/file")
        self.give("given")
        paths = "own/file", "own/none", "to-own", "given/file", "to-given", "by-given", "loop", "open/file", "open/none"
        found = [path for path in paths if spawn.is_roots(str(self.place / path))]
        self.assertEqual(found, ["own/file", "own/none", "to-own"])
        self.assertEqual([spawn.is_roots(path) for path in ("/tmp", "/tmp/none")], [True, False])


class Reports(unittest.TestCase):
    def test_the_report_of_the_longest_warm_list_fits_into_an_event(self) -> None:
        with tempfile.TemporaryDirectory() as place, mock.patch.object(sys, "path", [place, *sys.path]):
            Path(place, "fails.py").write_text("raise ValueError('\U0001f600' * 1000)")
            modules = [zygote._import("fails", False)] * 64
        line = wire_json.dumps({"type": "warm", "modules": modules})
        self.assertLess(len(line), limits.WARM_REPORT_BYTES)
        self.assertEqual(Message(line).modules, modules)


# Looks through its own memory for a text that it has only in reverse.
SPY = """
import os, re
seen = 0
for line in open("/proc/self/maps"):
    fields = line.split()
    if "r" not in fields[1] or fields[-1] in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
        continue
    start, end = (int(number, 16) for number in fields[0].split("-"))
    with open("/proc/self/mem", "rb", 0) as memory:
        memory.seek(start)
        seen += len(re.findall(bytes(reversed(b"REVERSED")) + b"{9}", memory.read(end - start)))
open(PLACE, "w").write(str(seen))
"""


class Memory(unittest.TestCase):
    def test_a_script_has_nothing_in_its_memory_that_an_earlier_one_was_given(self) -> None:
        rig = Rig(self)
        self.enterContext(mock.patch.object(rig.cgroups, "create", lambda: None))
        place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, place)
        server = ForkServer(rig.loop, [], False, {"PATH": os.environ["PATH"]}, Cgroups(None), lambda _modules: None)
        rig.operations.fork_server = server
        rig.run_until(lambda: server._is_warm)
        spy = SPY.replace("PLACE", repr(str(place / "seen"))).replace("REVERSED", "a3f7-ks").encode()

        def seen(env: dict[str, str]) -> int:
            answer = rig.request({"op": "python", "args": [], "env": env}, spy, None)
            self.assertEqual((answer["ok"], answer["warm"]), (True, True), answer)
            return int((place / "seen").read_text())

        secrets = {f"TOKEN{n}": "sk-7f3a" + "a" * (30 * n) for n in range(20)}
        self.assertGreater(seen(secrets), 0)
        self.assertEqual(seen({}), 0)
        server.close()
        rig.run_until(lambda: server._connection is None)


class Homes(unittest.TestCase):
    def test_a_script_has_the_site_packages_of_its_own_home_only(self) -> None:
        rig = Rig(self)
        self.enterContext(mock.patch.object(rig.cgroups, "create", lambda: None))
        place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, place)
        below = f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        homes = agents, own = place / "agent", place / "own"
        for home in homes:
            (home / below).mkdir(parents=True)
            # Run by each interpreter that has a user's site-packages.
            (home / below / "own.pth").write_text(f"import sys; open({str(home / 'lines')!r}, 'a').write('x')")
            (home / below / "usercustomize.py").write_text(f"open({str(home / 'ran')!r}, 'w').close()")
        env = {"PATH": os.environ["PATH"], "HOME": str(agents)}
        with mock.patch.dict(os.environ, env, clear=True):
            server = ForkServer(rig.loop, [], False, {}, Cgroups(None), lambda _modules: None)
        rig.operations.fork_server = server
        rig.run_until(lambda: server._is_warm)
        code = f"""
import json, site, sys
seen = site.getusersitepackages(), site.getuserbase(), site.ENABLE_USER_SITE, [p for p in sys.path if ".local" in p]
open({str(place / "seen")!r}, "w").write(json.dumps(seen))
"""
        answer = rig.request({"op": "python", "args": [], "env": {"HOME": str(own)}}, code.encode(), None)
        self.assertEqual((answer["ok"], answer["warm"]), (True, True), answer)
        expected = [str(own / below), str(own / ".local"), True, [str(own / below)]]
        self.assertEqual(json.loads((place / "seen").read_text()), expected)
        self.assertEqual([(home / "ran").exists() for home in homes], [False, False])
        self.assertEqual([(home / "lines").exists() for home in homes], [False, True])
        # Cold, it is an interpreter of that user, which runs their code once.
        server.close()
        rig.run_until(lambda: server._connection is None)
        (own / "lines").unlink()
        server.launch = lambda job, _wait: fork_child(rig.loop, job, spawn.execute_script)  # type: ignore[method-assign]
        answer = rig.request({"op": "python", "args": [], "env": {"HOME": str(own)}}, code.encode(), None)
        self.assertEqual((answer["ok"], answer["warm"]), (True, False), answer)
        self.assertEqual(json.loads((place / "seen").read_text()), expected)
        self.assertEqual((own / "lines").read_text(), "x")
        self.assertTrue((own / "ran").exists())


class OwnPython(unittest.TestCase):
    """The Python of an image that is not the agent's: any version, or none."""

    def setUp(self) -> None:
        self.rig = Rig(self)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.python = Path(folder.name) / "python3"
        self.reports: list[list[object]] = []
        self.enterContext(mock.patch.object(sys, "stderr", self.enterContext(open(os.devnull, "w"))))

    def start(self, body: str | None) -> ForkServer:
        """`body`: of a shell script as the only python3."""
        if body is not None:
            self.python.write_text(f"#!/bin/sh\n{body}\n")
            self.python.chmod(0o755)
        env = {"PATH": str(self.python.parent)}
        server = ForkServer(self.rig.loop, [], False, env, Cgroups(None), self.reports.append, has_own_python=True)
        self.addCleanup(self.end, server)
        self.rig.run_until(lambda: bool(self.reports))
        return server

    def end(self, server: ForkServer) -> None:
        server.close()
        self.rig.run_until(lambda: server._connection is None)

    def as_version(self, version: str) -> str:
        code = f"import sys, runpy; sys.version_info = {version}; del sys.argv[0]; runpy.run_path(sys.argv[0])"
        return f"shift 2; exec {sys.executable} -I -S -c '{code}' \"$@\""

    def run_script(self, server: ForkServer) -> tuple[int, str]:
        """Errno of the failed start, and what the child reports."""
        ours, theirs = os.pipe()
        failed: list[int] = []
        ended: list[int | None] = []
        launch = Launch([], {"PATH": str(self.python.parent)}, "/", os.geteuid(), os.getegid(), [], None, False, {"code": ""})
        job = Job(launch, (0, 1, 2), theirs, lambda *_: None, failed.append, ended.append)
        server.launch(job, False)
        os.close(theirs)
        self.rig.run_until(lambda: bool(failed or ended))
        report = os.read(ours, 500).decode()
        os.close(ours)
        return failed[0] if failed else 0, report

    def test_the_python_in_the_path_of_the_environment_serves(self) -> None:
        server = self.start(f'exec {sys.executable} "$@"')
        self.assertTrue(server._is_warm)
        self.assertEqual(self.run_script(server), (0, ""))

    def test_without_one_or_with_an_old_one_scripts_are_refused(self) -> None:
        for body in (None, self.as_version("(3, 9)")):
            with self.subTest(body):
                self.reports.clear()
                server = self.start(body)
                self.assertEqual(self.reports, [[]])
                self.assertEqual(self.run_script(server), (errno.ENOPKG, ""))

    def test_one_that_never_serves_is_reported_and_scripts_then_show_why(self) -> None:
        # The host waits for a report before it saves a template.
        server = self.start("exit 3")
        self.assertEqual((self.reports, server._is_warm), ([[]], False))
        self.assertEqual(self.run_script(server), (0, ""))

    def test_one_that_ended_after_it_served_is_reported_once(self) -> None:
        server = self.start(f'exec {sys.executable} "$@"')
        self.python.write_text("#!/bin/sh\nexit 3\n")
        os.kill(server._pid, signal.SIGKILL)
        self.rig.run_until(lambda: server._restarts > 5)
        self.assertEqual(self.reports, [[]])

    @unittest.skipUnless(os.geteuid() == 0, "as in a VM, the agent is root")
    def test_it_does_not_have_the_agents_place_when_memory_is_short(self) -> None:
        def own(score: str) -> None:
            Path("/proc/self/oom_score_adj").write_text(score)

        self.addCleanup(own, Path("/proc/self/oom_score_adj").read_text())
        # Not -1000 as in a VM: a container's root may only raise it.
        own("500")
        server = self.start(f'exec {sys.executable} "$@"')
        self.assertEqual(Path(f"/proc/{server._pid}/oom_score_adj").read_text(), "0\n")

    def test_killed_while_a_script_runs_the_script_lives_on_and_another_serves(self) -> None:
        server = self.start(f'exec {sys.executable} "$@"')
        first = server._pid
        started: list[int] = []
        ended: list[int | None] = []
        ours, theirs = os.pipe()
        launch = Launch([], {}, "/", os.geteuid(), os.getegid(), [], None, False, {"code": "import time; time.sleep(60)"})
        job = Job(launch, (0, 1, 2), theirs, lambda pid, *_: started.append(pid), lambda _errno: self.fail(), ended.append)
        server.launch(job, True)
        os.close(theirs)
        self.rig.run_until(lambda: bool(started))
        self.assertEqual(os.read(ours, 500), b"")
        os.close(ours)
        os.kill(first, signal.SIGKILL)
        self.rig.run_until(lambda: server._is_warm and server._pid != first)
        self.assertEqual(ended, [])
        os.kill(started[0], signal.SIGKILL)
        self.rig.run_until(lambda: bool(ended))
        # Its status went to the process that was its parent.
        self.assertEqual(ended, [None])
        self.assertEqual(self.run_script(server), (0, ""))

    def test_an_old_one_that_starts_for_one_script_says_so(self) -> None:
        server = self.start(f'exec {sys.executable} "$@"')
        server._is_warm = False
        self.python.write_text(f"#!/bin/sh\n{self.as_version('(3, 9)')}\n")
        self.assertEqual(self.run_script(server), (0, "exec 0 this image has no Python 3.10 or newer: use exec"))


class Namespaces(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs root: a pid namespace")
    def test_the_agent_knows_scripts_of_another_pid_namespace_by_their_pid_in_its_own(self) -> None:
        rig = Rig(self)
        self.enterContext(mock.patch.object(rig.cgroups, "create", lambda: None))
        inner = ["--pid", "--fork", "--kill-child", "--", sys.executable, "-I", "-S", spawn._INTERPRETER]

        def execute(arguments: list[str], env: dict[str, str], _has_own_python: bool) -> None:
            os.execvpe("unshare", ["unshare", *inner, *arguments], env)

        self.enterContext(mock.patch.object(spawn, "_exec_interpreter", execute))
        server = ForkServer(rig.loop, [], False, dict(os.environ), Cgroups(None), lambda _modules: None)
        rig.operations.fork_server = server
        rig.run_until(lambda: server._is_warm)
        seen: list[int] = []
        start = Process.start

        def note(process: Process, *arguments: object) -> None:
            start(process, *arguments)  # type: ignore[arg-type]
            rig.run_until(lambda: process._state in ("running", "refused"))
            seen.append(process.pid)
            status = Path(f"/proc/{process.pid}/status").read_text()
            ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
            self.assertEqual((int(ids[1]), len(ids)), (process.pid, 3), status)
            process.kill(9)

        self.enterContext(mock.patch.object(Process, "start", note))
        answer = rig.request({"op": "python", "args": []}, b"import time; time.sleep(60)", None)
        self.assertEqual((answer["ok"], answer["pid"]), (True, seen[0]))
        server.close()
        rig.run_until(lambda: server._connection is None)


if __name__ == "__main__":
    unittest.main()
