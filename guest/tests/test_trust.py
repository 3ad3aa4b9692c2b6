"""The certificate for secrets: the bundle before, with and after it."""

import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))
sys.path.insert(0, str(Path(__file__).parent))

from neurovisor_agent import limits, trust
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.request import RequestError
from neurovisor_agent.settings import Settings
from test_process import Rig

OURS = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"
OTHER = OURS.replace("ours", "other")
IMAGE = "# of the image\nimage's"


class Trust(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = Path(self.folder.name)
        self.bundle = Path(self.folder.name + trust.BUNDLE)
        self.source = Path(self.folder.name + trust.SOURCE)

    def apply(self, pem: str | None) -> str | None:
        return trust.apply(pem, self.folder.name)

    def certifi(self) -> None:
        path = self.root / "usr/lib/python3.13/site-packages/certifi/cacert.pem"
        path.parent.mkdir(parents=True)
        path.write_text("certifi's\n")

    def test_adding_replacing_and_removing_ours_keeps_the_others(self) -> None:
        self.bundle.parent.mkdir(parents=True)
        self.bundle.write_text(IMAGE)
        self.certifi()
        for pem in (OURS, OURS, OTHER):
            self.assertIsNone(self.apply(pem))
            self.assertEqual(self.bundle.read_text().count("BEGIN CERTIFICATE"), 1)
            self.assertIn(pem, self.bundle.read_text())
            self.assertTrue(self.bundle.read_text().startswith(IMAGE + "\n"))
            self.assertEqual(self.source.read_text(), pem)
        self.assertEqual(self.bundle.stat().st_mode & 0o777, 0o644)
        self.assertIsNone(self.apply(None))
        self.assertEqual(self.bundle.read_text(), IMAGE + "\n")
        self.assertFalse(self.source.exists())

    def test_without_a_bundle_certifis_is_used(self) -> None:
        self.certifi()
        self.assertIsNone(self.apply(OURS))
        self.assertTrue(self.bundle.read_text().startswith("certifi's\n"))
        self.assertIn(OURS, self.bundle.read_text())

    def test_without_any_bundle_only_ours_is_written(self) -> None:
        self.assertIsNone(self.apply(None))
        self.assertFalse(self.bundle.exists())
        self.assertIsNone(self.apply(OURS))
        self.assertIn(OURS, self.bundle.read_text())

    def test_a_failure_is_reported_as_a_problem(self) -> None:
        self.bundle.mkdir(parents=True)
        self.assertIn("Is a directory", self.apply(OURS) or "")

    def test_parse_accepts_only_a_pem_certificate(self) -> None:
        self.assertEqual(trust.parse(OURS), OURS)
        self.assertIsNone(trust.parse(None))
        for bad in ("", 5, [OURS], OURS[:-1], " " + OURS, OURS + "x" * 20_000, OURS.replace("ours", "ü")):
            with self.assertRaises(RequestError):
                trust.parse(bad)


class Changes(Trust):
    """The certificate as the agent changes it: in a child."""

    def setUp(self) -> None:
        super().setUp()
        self.rig = Rig(self)
        self.settings = Settings(self.rig.loop, Cgroups(None), in_vm=False)
        self.enterContext(mock.patch.object(trust, "BUNDLE", str(self.bundle)))
        self.enterContext(mock.patch.object(trust, "SOURCE", str(self.source)))
        self.enterContext(mock.patch.object(trust, "_OTHER_BUNDLES", ()))
        self.enterContext(mock.patch.object(trust, "_PYTHON_PARENTS", (str(self.root / "usr/lib"),)))
        self.results: list[str | None] = []

    def apply(self, pem: str | None) -> str | None:
        self.settings._has_authority = True
        self.settings.set_authority(pem, self.results.append)
        self.rig.run_until(lambda: bool(self.results))
        return self.results.pop()

    def test_changes_are_made_one_after_the_other(self) -> None:
        for pem in (OURS, OTHER, None, OURS):
            self.settings.set_authority(pem, self.results.append)
        self.rig.run_until(lambda: len(self.results) == 4)
        self.assertEqual(self.results, [None] * 4)
        self.assertEqual(self.bundle.read_text().count("BEGIN CERTIFICATE"), 1)
        self.assertIn(OURS, self.bundle.read_text())

    def test_the_host_gets_the_problem_before_either_gives_up(self) -> None:
        self.assertLess(limits.TRUST_S + limits.CARD_WAIT_S, limits.HELLO_WAIT_S)

    def test_a_bundle_that_blocks_does_not_block_the_agent(self) -> None:
        self.enterContext(mock.patch.object(limits, "TRUST_S", 0.3))
        self.bundle.parent.mkdir(parents=True)
        os.mkfifo(self.bundle)
        self.settings.set_authority(OURS, self.results.append)
        turns: list[int] = []
        self.rig.loop.after(0.05, lambda: turns.append(len(self.results)))
        self.rig.run_until(lambda: bool(self.results))
        self.assertEqual(turns, [0])
        self.assertEqual(self.results, [f"{trust.FAILED}: it took too long"])

    def test_a_guest_that_never_had_a_certificate_forks_nothing(self) -> None:
        with mock.patch.object(os, "fork", self.fail):
            self.settings.set_authority(None, self.results.append)
        self.assertEqual(self.results, [None])


if __name__ == "__main__":
    unittest.main()
