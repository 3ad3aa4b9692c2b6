"""The certificate for secrets: the bundle before, with and after it."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import trust
from neurovisor_agent.request import RequestError

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
        path = Path(self.folder.name + trust._CERTIFI.format(*sys.version_info[:2]))
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
        self.assertIn("could not be installed", self.apply(OURS) or "")

    def test_parse_accepts_only_a_pem_certificate(self) -> None:
        self.assertEqual(trust.parse(OURS), OURS)
        self.assertIsNone(trust.parse(None))
        for bad in ("", 5, [OURS], OURS[:-1], " " + OURS, OURS + "x" * 20_000, OURS.replace("ours", "ü")):
            with self.assertRaises(RequestError):
                trust.parse(bad)


if __name__ == "__main__":
    unittest.main()
