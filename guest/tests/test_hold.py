"""Freezing user code while the host adds memory or saves the VM, over files like the kernel's."""

import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import limits
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.loop import Loop
from neurovisor_agent.monitor import Monitor
from neurovisor_agent.request import Request
from neurovisor_agent.settings import parse_limits

TOTAL = 256 << 20


class Stop(BaseException):
    """Leaves `Loop.run`, which survives every Exception."""


class Freeze(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = Path(folder.name)
        (root / "cgroup.subtree_control").touch()
        self.user = root / "user"
        self.user.mkdir()
        self.files = root / "files"
        self.files.mkdir()
        for name in ("memory.max", "memory.high", "pids.max", "cgroup.freeze"):
            (self.user / name).touch()
        (self.files / "cgroup.freeze").touch()
        self.cgroups = Cgroups(str(root))

    def frozen(self) -> str:
        return (self.user / "cgroup.freeze").read_text()

    def test_freeze_works_once_and_only_if_the_limits_allow_it(self) -> None:
        self.cgroups.limit({}, TOTAL)
        self.assertFalse(self.cgroups.freeze())
        self.assertEqual(self.frozen(), "")
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertTrue(self.cgroups.freeze())
        self.assertEqual(self.frozen(), "1")
        self.cgroups.thaw()
        self.assertEqual(self.frozen(), "0")
        self.assertFalse(self.cgroups.freeze())

    def test_new_limits_thaw_and_allow_another_freeze(self) -> None:
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.cgroups.freeze()
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertEqual(self.frozen(), "0")
        self.assertTrue(self.cgroups.freeze())

    def test_hold_is_capped_at_the_agents_own_limit(self) -> None:
        wanted = parse_limits(Request({"limits": {"holdMs": 10**9}})) or {}
        self.cgroups.limit(wanted, TOTAL)
        self.assertEqual(self.cgroups.hold_s, limits.HOLD_S)

    def test_without_cgroup_freeze_user_code_keeps_running(self) -> None:
        (self.user / "cgroup.freeze").unlink()
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertFalse(self.cgroups.freeze())
        self.cgroups.thaw()

    def test_user_code_is_thawed_after_hold_ms_without_new_limits(self) -> None:
        self.cgroups.limit({"holdMs": 100}, TOTAL)
        loop = Loop()
        monitor = object.__new__(Monitor)
        monitor._loop, monitor._cgroups, monitor._thaw_timer = loop, self.cgroups, None
        monitor._freeze()
        self.assertEqual(self.frozen(), "1")

        def stop() -> None:
            if self.frozen() == "0":
                raise Stop
            loop.after(0.02, stop)

        stop()
        with self.assertRaises(Stop):
            loop.run()

    def test_a_save_freezes_whatever_the_limits_say_and_thaws_once(self) -> None:
        self.cgroups.limit({}, TOTAL)
        for _ in range(2):
            self.cgroups.freeze_to_save()
            self.assertEqual(self.frozen(), "1")
            self.cgroups.thaw_after_save()
            self.assertEqual(self.frozen(), "0")

    def test_the_end_of_a_hold_for_memory_does_not_thaw_a_save(self) -> None:
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertTrue(self.cgroups.freeze())
        self.cgroups.freeze_to_save()
        self.cgroups.thaw()
        self.assertEqual(self.frozen(), "1")
        self.cgroups.thaw_after_save()
        self.assertEqual(self.frozen(), "0")

    def test_the_limits_of_the_next_hello_thaw_a_saved_guest(self) -> None:
        self.cgroups.limit({}, TOTAL)
        self.cgroups.freeze_to_save()
        self.cgroups.limit({}, TOTAL)
        self.assertEqual(self.frozen(), "0")

    def test_a_save_freezes_file_operations_too_and_a_hold_for_memory_does_not(self) -> None:
        freeze = self.files / "cgroup.freeze"
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.cgroups.freeze()
        self.assertEqual(freeze.read_text(), "")
        self.cgroups.freeze_to_save()
        self.assertEqual(freeze.read_text(), "1")
        self.cgroups.thaw()
        self.assertEqual(freeze.read_text(), "1")
        self.cgroups.thaw_after_save()
        self.assertEqual(freeze.read_text(), "0")

    def test_wait_frozen_waits_for_user_code_and_file_operations_and_says_if_one_did_not_stop(self) -> None:
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                (self.user / "cgroup.events").write_text("populated 1\nfrozen 1\n")
            if len(waited) == 5:
                (self.files / "cgroup.events").write_text("populated 0\nfrozen 1\n")

        for group in (self.user, self.files):
            (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        with unittest.mock.patch("neurovisor_agent.cgroup.time.sleep", sleep):
            self.assertTrue(self.cgroups.wait_frozen())
            self.assertEqual(len(waited), 5)
            (self.files / "cgroup.events").write_text("populated 1\nfrozen 0\n")
            self.assertFalse(self.cgroups.wait_frozen())
        self.assertEqual(len(waited), 5 + limits.FREEZE_POLLS - 1)

    def test_without_a_hierarchy_nothing_is_frozen(self) -> None:
        cgroups = Cgroups(None)
        cgroups.freeze_to_save()
        cgroups.wait_frozen()
        cgroups.thaw_after_save()


if __name__ == "__main__":
    unittest.main()
