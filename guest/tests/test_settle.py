"""`settle` over an agent's own loop: when user code is thawed, what a late sync changes, and who is frozen."""

import gc
import json
import os
import socket
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))
sys.path.insert(0, str(Path(__file__).parent))

from neurovisor_agent import limits, operations, worker
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.connection import Connection
from neurovisor_agent.loop import IN
from neurovisor_agent.request import RequestError
from test_process import Rig, socket_of


class Answer:
    """The answer to a request that is under way; None: there is none yet."""

    def __init__(self, rig: Rig, fields: dict[str, object], body: bytes = b"") -> None:
        self.ours, theirs = socket.socketpair()
        self.got = bytearray()
        self.rig = rig

        def receive(_events: int) -> None:
            data = self.ours.recv(65536)
            self.got.extend(data)
            if not data:
                rig.loop.unwatch(self.ours.fileno())
                self.ours.close()

        rig.loop.watch(self.ours.fileno(), IN, receive)
        line = json.dumps({"v": 1, **fields}).encode()
        frames = b"\x05" + len(body).to_bytes(4, "big") + body if body else b""
        rig.operations.accept(Connection(rig.loop, socket_of(theirs)), line + b"\n" + frames)

    @property
    def value(self) -> dict | None:
        self.rig.run_for(0.05)
        line, newline, _rest = bytes(self.got).partition(b"\n")
        return json.loads(line) if newline else None


class Settle(unittest.TestCase):
    def setUp(self) -> None:
        gc.collect()
        self.rig = Rig(self)
        self.files = self.rig.user.parent / "files"
        for group in (self.rig.user, self.files):
            (group / "cgroup.freeze").touch()
        self.flushes: list = []
        self.enterContext(
            mock.patch.object(operations, "start_flush", lambda *arguments: self.flushes.append(arguments[5]))
        )

    def settle(self, **fields: object) -> Answer:
        before = len(self.flushes)
        answer = Answer(self.rig, {"op": "settle", "freeze": True, **fields})
        self.rig.run_until(lambda: len(self.flushes) > before or bool(answer.got))
        return answer

    def frozen(self) -> tuple[str, str]:
        return (self.rig.user / "cgroup.freeze").read_text(), (self.files / "cgroup.freeze").read_text()

    def test_user_code_is_thawed_although_the_sync_does_not_end(self) -> None:
        with mock.patch.object(limits, "SETTLE_S", 0.1):
            answer = self.settle()
            self.assertEqual(self.frozen(), ("1", "1"))
            self.rig.run_until(lambda: self.frozen() == ("0", "0"))
        self.assertFalse(self.rig.operations._holding)
        # The disk is no longer as the host expects it.
        self.flushes[0](None)
        self.assertEqual((answer.value or {}).get("code"), "guest_failed")

    def test_user_code_is_thawed_when_no_save_follows(self) -> None:
        with mock.patch.object(limits, "SETTLE_FREEZE_S", 0.1):
            answer = self.settle()
            self.flushes[0](None)
            self.rig.run_until(lambda: self.frozen() == ("0", "0"))
        self.assertEqual(answer.value, {"ok": True})

    def test_the_end_of_an_earlier_settle_changes_nothing(self) -> None:
        first = self.settle()
        second = self.settle()
        with mock.patch.object(limits, "SETTLE_FREEZE_S", 0.0):
            self.flushes[0](None)
            self.flushes[0](RequestError("guest_failed", "it failed"))
            self.rig.run_for(0.1)
        self.assertEqual(self.frozen(), ("1", "1"))
        self.assertEqual((first.value or {}).get("code"), "guest_failed")
        self.flushes[1](None)
        self.assertEqual(second.value, {"ok": True})
        self.assertEqual(self.frozen(), ("1", "1"))

    def test_a_hello_during_a_sync_thaws_for_good(self) -> None:
        self.settle()
        self.rig.operations.unsettle()
        self.assertEqual(self.frozen(), ("0", "0"))
        self.flushes[0](None)
        self.assertIsNone(self.rig.operations._late and self.rig.operations._late.run)

    def test_a_failed_sync_thaws_at_once(self) -> None:
        answer = self.settle()
        self.flushes[0](RequestError("guest_failed", "programs could not be stopped"))
        self.assertEqual(self.frozen(), ("0", "0"))
        self.assertEqual((answer.value or {}).get("message"), "programs could not be stopped")

    def test_a_group_that_can_not_be_frozen_fails_the_settle_and_leaves_none_frozen(self) -> None:
        (self.files / "cgroup.freeze").unlink()
        with mock.patch.object(Cgroups, "thaw_after_save", autospec=True) as thaw:
            answer = self.settle()
            thaw.assert_called_once()
        self.assertFalse((answer.value or {}).get("ok"))
        self.assertEqual(self.flushes, [])

    def test_scripts_are_neither_written_nor_removed_while_user_code_is_frozen(self) -> None:
        script = self.rig.scripts / "1"
        script.mkdir()
        self.settle()
        self.rig.operations._ended_scripts.append([str(script)])
        request: dict[str, object] = {"op": "python", "name": "a.py", "args": [], "bodyBytes": 4}
        self.assertEqual((Answer(self.rig, request, b"pass").value or {}).get("code"), "guest_failed")
        self.assertEqual([path.name for path in self.rig.scripts.iterdir()], ["1"])
        self.rig.operations.unsettle()
        self.assertEqual(list(self.rig.scripts.iterdir()), [])


class Flush(unittest.TestCase):
    def setUp(self) -> None:
        gc.collect()
        self.rig = Rig(self)

    def flush(self, is_frozen: bool, must_freeze: bool) -> str | None:
        done: list = []
        worker.start_flush(self.rig.loop, False, False, lambda: is_frozen, must_freeze, done.append)
        self.rig.run_until(lambda: bool(done))
        return str(done[0]) if done[0] is not None else None

    def test_fails_only_if_programs_must_be_frozen_and_are_not(self) -> None:
        self.assertIsNone(self.flush(True, True))
        self.assertIsNone(self.flush(False, False))
        self.assertIn("could not be stopped", self.flush(False, True) or "")


class Files(unittest.TestCase):
    def test_a_file_operation_joins_its_cgroup_before_it_touches_a_file(self) -> None:
        gc.collect()
        rig = Rig(self)
        procs = rig.user.parent / "files/cgroup.procs"
        for joined in (False, True):
            if joined:
                procs.touch()
            answer = Answer(rig, {"op": "mkdir", "path": "made"})
            answer.ours.shutdown(socket.SHUT_WR)
            rig.run_until(lambda: answer.ours.fileno() < 0)
            self.assertEqual((rig.scripts.parent / "made").exists(), joined)
        self.assertEqual(procs.read_text(), "0")


if __name__ == "__main__":
    unittest.main()
