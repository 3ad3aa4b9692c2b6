"""A forked child of the agent imports nothing: it may be root, and what it would import may be the user's."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

AGENT = Path(__file__).parents[1] / "agent"

# In an interpreter of its own, where no test has imported anything: one agent's operations over a socket pair. An
# audit hook (PEP 578) reports each import that is not answered from sys.modules.
PROGRAM = """
import os, sys
agent, folder, report = sys.argv[1:]
sys.path.insert(0, agent)
import _socket
from neurovisor_agent import account, wire_json
from neurovisor_agent.account import Account
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.connection import Connection
from neurovisor_agent.fork_server import ForkServer
from neurovisor_agent.loop import IN, Loop
from neurovisor_agent.operations import Operations
from neurovisor_agent.settings import Settings
from neurovisor_agent.victims import Victims

parent = os.getpid()
log = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 2)
def heard(event, arguments):
    if event == "import" and os.getpid() != parent:
        os.write(2, f"imported {arguments[0]}\\n".encode())
sys.addaudithook(heard)
own = Account("tester", os.geteuid(), os.getegid(), [], folder)
account.find = lambda *_arguments: own
loop = Loop()
cgroups = Cgroups(None)
settings = Settings(loop, cgroups, in_vm=False)
settings.set_env({})
operations = Operations(loop, cgroups, settings, folder + "/scripts", False, Victims(loop, False), lambda *a, **k: None)
requests = [wire_json.loads(line.encode()) for line in sys.stdin.read().splitlines()]

class Done(BaseException):
    pass

def serve():
    if not requests:
        raise Done
    request = requests.pop(0)
    body = request.pop("body", None)
    ours, theirs = _socket.socketpair()
    got = bytearray()
    def receive(_events):
        data = ours.recv(65536)
        got.extend(data)
        if request["op"] == "watch" and b"\\n" in got:
            data = b""
        if not data:
            loop.unwatch(ours.fileno())
            ours.close()
            print(bytes(got).split(b"\\n", 1)[0].decode(), flush=True)
            loop.after(0, serve)
    loop.watch(ours.fileno(), IN, receive)
    frames = b""
    if body is not None:
        end = b"" if "bodyBytes" in request else b"\\x05" + bytes(4)
        frames = b"\\x05" + len(body).to_bytes(4, "big") + body.encode() + end
    operations.accept(Connection(loop, _socket.socket(fileno=theirs.detach())), wire_json.dumps(request) + b"\\n" + frames)
    if request["op"] in ("read", "stat", "list", "move", "remove", "mkdir"):
        ours.shutdown(_socket.SHUT_WR)

def begin(_modules):
    # Not known to the operations: the script starts cold.
    server.close()
    loop.after(0, serve)

server = ForkServer(loop, [], False, {}, cgroups, begin)
try:
    loop.run()
except Done:
    pass
"""


class Imports(unittest.TestCase):
    def test_no_operation_imports_in_a_child(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            requests: list[dict[str, object]] = [
                {"op": "write", "path": "a", "body": "hello"},
                {"op": "read", "path": "a"},
                {"op": "stat", "path": "a"},
                {"op": "list", "path": ".", "depth": 3},
                {"op": "move", "path": "a", "to": "d/b"},
                {"op": "mkdir", "path": "d/e/f"},
                {"op": "remove", "path": "d"},
                {"op": "watch", "path": ".", "recursive": True},
                {"op": "read", "path": "missing"},
                {"op": "exec", "argv": ["true"], "stdin": False},
                {"op": "exec", "argv": ["no-such-program"], "stdin": False},
                {"op": "exec", "argv": ["true"], "pty": {"cols": 80, "rows": 24}},
                {"op": "python", "args": [], "bodyBytes": 4, "body": "pass", "stdin": False},
                {"op": "settle", "dropCaches": True, "freeze": True},
            ]
            lines = "\n".join(json.dumps({"v": 1, **request}) for request in requests)
            report = f"{folder}/report"
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", PROGRAM, str(AGENT), folder, report],
                input=lines,
                capture_output=True,
                text=True,
                timeout=60,
                env={"PATH": os.environ["PATH"]},
            )
            self.assertEqual(done.returncode, 0, Path(report).read_text() + done.stderr)
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            codes = [answer.get("code") for answer in answers]
            self.assertEqual(codes, [None] * 8 + ["not_found", None, "not_found", None, None, None], answers)
            self.assertEqual(Path(report).read_text(), "")


if __name__ == "__main__":
    unittest.main()
