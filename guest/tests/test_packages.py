"""The files that point cargo and apt at the packages of the host."""

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))
sys.path.insert(0, str(Path(__file__).parent))

from neurovisor_agent import packages
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.settings import Settings
from test_process import Rig


class Packages(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.enterContext(mock.patch.object(packages, "_DIR", folder.name))
        self.settings = Settings(Rig(self).loop, Cgroups(None), in_vm=True)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def test_each_kind_has_its_file_and_keeps_it_only_while_it_is_named(self) -> None:
        self.settings.set_env({"NEUROVISOR_PACKAGES": "pip,cargo,apt"})
        self.assertEqual(self.names(), ["apt.conf", "cargo.toml"])
        self.assertIn(
            'Acquire::http::Proxy "http://127.0.0.1:11435";',
            (self.root / "apt.conf").read_text(),
        )
        self.assertIn(
            'registry = "sparse+http://127.0.0.1:11435/cargo/index/"',
            (self.root / "cargo.toml").read_text(),
        )
        self.settings.set_env({"NEUROVISOR_PACKAGES": "apt"})
        self.assertEqual(self.names(), ["apt.conf"])
        self.settings.set_env({})
        self.assertEqual(self.names(), [])

    def test_without_packages_nothing_is_written(self) -> None:
        self.settings.set_env({"NEUROVISOR_PACKAGES": "pip,npm"})
        self.assertEqual(self.names(), [])


if __name__ == "__main__":
    unittest.main()
