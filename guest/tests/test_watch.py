"""What a watch reports of directories that change while it looks at them."""

import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import limits, watch


class WatchTest(unittest.TestCase):
    def setUp(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)

    def start(self) -> watch._Watch:
        watched = watch._Watch(str(self.place), True)
        self.addCleanup(os.close, watched.fd)
        return watched

    def events(self, watched: watch._Watch) -> list[tuple[str, str]]:
        found = watched.events(os.read(watched.fd, 1 << 16))
        assert found is not None
        return [(event["type"], event["name"]) for event in found]

    def test_a_directory_that_is_gone_before_it_is_read_does_not_end_the_watch(self) -> None:
        watched = self.start()
        (self.place / "short").mkdir()
        scandir = os.scandir

        def removed_first(path: str) -> object:
            os.rmdir(path)
            return scandir(path)

        with mock.patch.object(os, "scandir", removed_first):
            self.assertEqual(self.events(watched), [("create", "short")])
        (self.place / "file").touch()
        self.assertIn(("create", "file"), self.events(watched))

    def test_new_directories_take_no_more_watches_than_the_limit(self) -> None:
        watched = self.start()
        with mock.patch.object(limits, "WATCHES", 5):
            for number in range(20):
                (self.place / f"{number}").mkdir()
            self.assertEqual(len(self.events(watched)), 20)
        self.assertEqual(len(watched._paths), 5)


if __name__ == "__main__":
    unittest.main()
