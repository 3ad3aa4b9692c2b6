"""The room, with namespaces as init makes them: what a child sees in it, and that no link leads out of it."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

AGENT = Path(__file__).parents[1] / "agent"

# Process 1 of the room, at the root `$1`. Unlike in init.c the old root stays, since a shell has no umount(2).
ROOM = """
mount --bind "$1" "$1" && cd "$1" && mkdir -p etc proc old
echo inside > etc/inside
ln -s ../../../etc/inside etc/up
ln -s /etc/inside etc/absolute
ln -s /outside etc/outside
ln -s /proc/1/root/etc/inside etc/magic
mkfifo etc/fifo
mount -t proc proc proc
pivot_root . old
echo ready
read line
"""
PREFIX = f"""
import os, sys
sys.path.insert(0, {str(AGENT)!r})
from neurovisor_agent import passwd, room
room.connect(int(sys.argv[1]))
def opened(path):
    try:
        return os.read(room.open_file(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), 100)
    except OSError as error:
        return error.errno
"""

# Two users' programs: one that has just given up root, and one that looks into its memory.
CHILD = """
import ctypes, signal
from neurovisor_agent import spawn
libc = ctypes.CDLL(None)
def looks(protect):
    ready, tell = os.pipe()
    victim = os.fork()
    if victim == 0:
        if not protect:
            room.keep_capabilities = lambda: None
        spawn.become(1000, 1000, [])
        # As with init's suid_dumpable=1; this machine may have another.
        libc.prctl(4, 1, 0, 0, 0)
        if protect:
            STEP
            pass
        os.write(tell, b".")
        signal.pause()
    os.read(ready, 1)
    if (spy := os.fork()) == 0:
        os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
        try:
            os.open(f"/proc/{victim}/mem", os.O_RDONLY)
            os._exit(1)
        except PermissionError:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(spy, 0)[1])
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    return {1: "read", 2: "refused"}[status]
print("unprotected", looks(False), flush=True)
print("protected", looks(True), flush=True)
"""


@unittest.skipUnless(os.geteuid() == 0, "only root makes namespaces")
class RoomTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        outside = Path("/outside")
        outside.write_text("outside\n")
        self.addCleanup(outside.unlink)
        root = Path(folder.name) / "root"
        root.mkdir()
        command = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", ROOM, "sh", str(root)]
        self.room = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end)
        assert self.room.stdout is not None
        self.assertEqual(self.room.stdout.readline(), "ready\n")
        children = Path(f"/proc/{self.room.pid}/task/{self.room.pid}/children").read_text().split()
        self.pid = int(children[0])

    def end(self):
        self.room.communicate("\n")

    def run_agent(self, code):
        """In an interpreter of its own: it enters the room for good."""
        command = [sys.executable, "-I", "-c", PREFIX + code, str(self.pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def test_links_lead_no_further_than_the_room(self):
        done = self.run_agent(
            "print([opened(f'/etc/{name}') for name in ('inside', 'up', 'absolute', 'outside', 'magic', 'missing')])"
        )
        inside = b"inside\n"
        # ENOENT and ELOOP.
        self.assertEqual(done.stdout, f"{[inside, inside, inside, 2, 40, 2]}\n", done.stderr)

    def test_account_files_are_those_of_the_room(self):
        done = self.run_agent("print(passwd.accounts().user('root'))")
        self.assertEqual(done.stdout, "None\n", done.stderr)
        done = self.run_agent("passwd.PASSWD = '/etc/fifo'; print(passwd.accounts().user('root'))")
        self.assertEqual(done.stdout, "None\n", done.stderr)

    def test_a_child_that_enters_has_the_room_as_its_root(self):
        done = self.run_agent("room.enter(); print(sorted(os.listdir('/')), os.getcwd(), os.path.exists('/outside'))")
        self.assertEqual(done.stdout, "['etc', 'old', 'proc'] / False\n", done.stderr)

    def test_pids_are_those_of_the_room(self):
        done = self.run_agent("print(room.inner_pid(int(sys.argv[1])), room.inner_pid(2**22 + 1))")
        self.assertEqual(done.stdout, "1 None\n", done.stderr)

    def test_a_child_that_became_a_user_is_out_of_reach_of_that_users_programs(self):
        for step in ("", "room.drop_capabilities()"):
            with self.subTest(step):
                done = self.run_agent(CHILD.replace("STEP", step))
                # The control is a child of root that no longer is one of the agent's.
                self.assertEqual(done.stdout, "unprotected read\nprotected refused\n", done.stderr)

    def test_a_child_that_executes_nothing_has_no_capability_left(self):
        done = self.run_agent(
            "from neurovisor_agent import spawn\n"
            # Opened before, since the child may not look at itself then.
            "status = open('/proc/thread-self/status')\n"
            "spawn.become(1000, 1000, [])\n"
            "room.drop_capabilities()\n"
            "print([line.split()[1] for line in status if line.startswith(('CapPrm', 'CapEff'))])"
        )
        self.assertEqual(done.stdout, f"{['0' * 16] * 2}\n", done.stderr)
