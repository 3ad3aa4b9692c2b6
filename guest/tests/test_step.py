"""Steps of a Dockerfile: hostile account files, and copies into a root whose links lead out of it."""

import io
import os
import stat
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
        places = {"ROOT": "root", "UNPACKED": "unpacked", "CONTEXT": "context"}
        for name, value in ((name, self.place / place) for name, place in places.items()):
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

    def copy_client_archive(self, mode, members, mode_of_files=None):
        """As `step.py copy` does for an archive of a client of E2B."""
        archive = self.place / "client.tar"
        with tarfile.open(archive, f"w:{mode}") as tar:
            for member in members:
                tar.addfile(member, io.BytesIO(b"x" * member.size))
        plan = {"from": None, "packed": "gzip" if mode == "gz" else "tar", "patterns": ["app"], "named": []}
        plan |= {"owner": f"{os.getuid()}:{os.getgid()}", "mode": mode_of_files, "extracts": False, "target": "/to/"}
        kept, given = os.dup(0), os.open(archive, os.O_RDONLY)
        try:
            os.dup2(given, 0)
            step_copy.copy(plan)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            os.close(given)

    def member(self, name, kind=tarfile.REGTYPE, target="", size=0):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size, member.mode = kind, target, size, 0o644
        return member

    def test_an_archive_of_a_client_packed_or_not(self):
        for mode in ("gz", ""):
            self.copy_client_archive(mode, [self.member(f"app/f{mode}", size=3)])
        self.assertEqual(sorted(os.listdir(self.root / "to")), ["f", "fgz"])
        self.assertFalse((self.place / "context").exists())

    def test_an_archive_of_a_client_whose_links_and_names_lead_out(self):
        outside = self.place / "outside"
        outside.mkdir()
        members = [
            self.member("app/link", tarfile.SYMTYPE, str(outside)),
            self.member("app/link/file", size=1),
            self.member(f"../{outside.name}/up", size=1),
            self.member(f"{outside}/absolute", size=1),
        ]
        try:
            self.copy_client_archive("gz", members)
        except step_root.Failed:
            # tar refuses such members.
            pass
        self.assertEqual(list(outside.iterdir()), [])

    def test_an_archive_of_a_client_whose_files_get_a_mode(self):
        self.copy_client_archive("gz", [self.member("app/f", size=1)], mode_of_files=0o600)
        modes = [stat.S_IMODE((self.root / name).stat().st_mode) for name in ("to", "to/f")]
        self.assertEqual(modes, [0o755, 0o600])

    def test_an_archive_of_a_client_with_a_pipe(self):
        with self.assertRaises(step_root.Failed) as raised:
            self.copy_client_archive("gz", [self.member("app/pipe", tarfile.FIFOTYPE)])
        self.assertEqual(raised.exception.code, "invalid")


if __name__ == "__main__":
    unittest.main()
