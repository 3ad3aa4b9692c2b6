"""Steps of a Dockerfile: hostile account files, and copies into a root whose links lead out of it."""

import io
import os
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "builder"))

import step_copy
import step_root


class Step(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        self.root = self.place / "root"
        (self.root / "etc").mkdir(parents=True)
        for name, value in (("ROOT", self.root), ("UNPACKED", self.place / "unpacked")):
            patch = mock.patch.object(step_copy, name, str(value))
            patch.start()
            self.addCleanup(patch.stop)

    def passwd(self, text):
        (self.root / "etc/passwd").write_text(text)

    def user(self, text):
        return step_root.user_of(str(self.root), text)


class Users(Step):
    def test_a_pipe_instead_of_the_file(self):
        os.mkfifo(self.root / "etc/passwd")
        self.assertEqual(self.user("5").uid, 5)

    def test_numbers_that_are_none(self):
        self.passwd("a:x:\u00b2:0::/:\nb:x:99999999999999999999:0::/:\nc:x:4294967295:0::/:\nd:x:7:8::/d:\n")
        for name in ("a", "b", "c", "4294967295", "99999999999"):
            with self.assertRaises(step_root.Failed):
                self.user(name)
        self.assertEqual((self.user("d").uid, self.user("d").gid), (7, 8))


class Copies(Step):
    def test_an_archive_stays_in_the_root_whatever_its_links_say(self):
        outside = self.place / "outside"
        outside.mkdir()
        (self.root / "app").mkdir()
        (self.root / "app/out").symlink_to(outside)
        archive = self.place / "a.tar"
        with tarfile.open(archive, "w") as tar:
            member = tarfile.TarInfo("out/file")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        step_copy.extract(str(archive), str(self.root / "app"))
        self.assertEqual(list(outside.iterdir()), [])
        self.assertEqual(Path(f"{self.root}{outside}/file").read_text(), "x")

    def test_a_hard_link_whose_first_name_was_replaced(self):
        one, two, to = (self.place / name for name in ("one", "two", "root/to"))
        one.mkdir()
        two.mkdir()
        (one / "f").write_text("first")
        os.link(one / "f", two / "g")
        (two / "f").write_text("second")
        copier = step_copy.Copier(None, None)
        for source in (one, two):
            copier.contents(str(source), str(to))
        self.assertEqual(((to / "f").read_text(), (to / "g").read_text()), ("second", "first"))


if __name__ == "__main__":
    unittest.main()
