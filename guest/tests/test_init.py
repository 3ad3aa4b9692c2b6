"""Parts of init.c that meet a disk which another VM wrote, without a VM."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

INIT = Path(__file__).parents[1] / "init.c"
USER = 1000

# die() ends this program instead of the machine.
DRIVER = f"""
#define _GNU_SOURCE
#include <sys/reboot.h>
#include <unistd.h>
static int end(int how) {{ (void)how; _exit(9); }}
#define reboot end
#define main init_main
#include "{INIT}"
#undef main
int main(int argc, char *argv[])
{{
	if (argc != 2 || chdir(argv[1]) != 0)
		return 2;
	give_home();
	return 0;
}}
"""


@unittest.skipUnless(os.geteuid() == 0, "only root changes owners")
class HomeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.program = str(Path(folder.name) / "init")
        compile_driver = ["gcc", "-O1", "-x", "c", "-", "-o", cls.program]
        subprocess.run(compile_driver, input=DRIVER, text=True, check=True)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.room = Path(folder.name) / "room"
        self.outside = Path(folder.name) / "outside"
        (self.outside / "user").mkdir(parents=True)
        self.room.mkdir()

    def give_home(self):
        return subprocess.run([self.program, str(self.room)], capture_output=True, text=True)

    def owners_outside(self):
        return {path.stat().st_uid for path in (self.outside, self.outside / "user")}

    def test_home_belongs_to_the_user(self):
        (self.room / "home/user").mkdir(parents=True)
        self.assertEqual(self.give_home().returncode, 0)
        self.assertEqual((self.room / "home/user").stat().st_uid, USER)
        self.assertEqual((self.room / "home").stat().st_uid, 0)

    def test_a_link_out_of_the_room_is_not_followed(self):
        for name, target in (("home/user", self.outside / "user"), ("home", self.outside)):
            with self.subTest(name):
                path = self.room / name
                path.parent.mkdir(exist_ok=True)
                path.symlink_to(target)
                done = self.give_home()
                self.assertEqual((done.returncode, self.owners_outside()), (9, {0}))
                self.assertIn("give the disk's /home/user to its user", done.stderr)
                path.unlink()
                if path.parent != self.room:
                    path.parent.rmdir()


if __name__ == "__main__":
    unittest.main()
