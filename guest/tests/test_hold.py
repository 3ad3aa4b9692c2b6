"""User code that stands still while the host gives the guest more memory, over files like the kernel's."""

import sys
import tempfile
import unittest
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
    """Leaves `Loop.run`, which outlives every Exception."""


class Hold(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = Path(folder.name)
        (root / "cgroup.subtree_control").touch()
        self.user = root / "user"
        self.user.mkdir()
        for name in ("memory.max", "memory.high", "pids.max", "cgroup.freeze"):
            (self.user / name).touch()
        self.cgroups = Cgroups(str(root))

    def frozen(self) -> str:
        return (self.user / "cgroup.freeze").read_text()

    def test_once_and_only_where_the_host_says_so(self) -> None:
        self.cgroups.limit({}, TOTAL)
        self.assertFalse(self.cgroups.hold())
        self.assertEqual(self.frozen(), "")
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertTrue(self.cgroups.hold())
        self.assertEqual(self.frozen(), "1")
        self.cgroups.go_on()
        self.assertEqual(self.frozen(), "0")
        self.assertFalse(self.cgroups.hold())

    def test_other_limits_let_it_go_on(self) -> None:
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.cgroups.hold()
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertEqual(self.frozen(), "0")
        self.assertTrue(self.cgroups.hold())

    def test_bounded_whatever_is_asked_for(self) -> None:
        wanted = parse_limits(Request({"limits": {"holdMs": 10**9}})) or {}
        self.cgroups.limit(wanted, TOTAL)
        self.assertEqual(self.cgroups.hold_s, limits.HOLD_S)

    def test_a_kernel_that_can_not_lets_user_code_run(self) -> None:
        (self.user / "cgroup.freeze").unlink()
        self.cgroups.limit({"holdMs": 5000}, TOTAL)
        self.assertFalse(self.cgroups.hold())
        self.cgroups.go_on()

    def test_a_host_that_gives_nothing_is_not_waited_for(self) -> None:
        self.cgroups.limit({"holdMs": 100}, TOTAL)
        loop = Loop()
        monitor = object.__new__(Monitor)
        monitor._loop, monitor._cgroups, monitor._hold_timer = loop, self.cgroups, None
        monitor._hold()
        self.assertEqual(self.frozen(), "1")

        def stop() -> None:
            if self.frozen() == "0":
                raise Stop
            loop.after(0.02, stop)

        stop()
        with self.assertRaises(Stop):
            loop.run()


if __name__ == "__main__":
    unittest.main()
