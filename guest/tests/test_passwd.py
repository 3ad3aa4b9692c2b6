"""The account files: what the C library would find in them, and what hostile ones can't do."""

import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import account, limits, passwd
from neurovisor_agent.passwd import Accounts
from neurovisor_agent.request import RequestError

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
# comment
user:x:1000:1000::/home/user:/bin/bash
user:x:1001:1001::/second:/bin/bash
again:x:1000:7::/again:/bin/bash
short:x:8:8:the shell may be missing:/s
"""
GROUP = b"""root:x:0:
user:x:1000:
disk:x:6:root,user
audio:x:29:user
other:x:30:users
again:x:29:user
"""


class Look(unittest.TestCase):
    def test_a_line_cut_at_the_limit_does_not_count(self) -> None:
        whole = b"user:x:1000:1000::/home/user:/bin/bash\n"
        cut = b"cut:x:1001:1001::/home/cut"
        group = b"user:x:1000:\nmore:x:50:user"
        with mock.patch.object(limits, "ACCOUNT_FILE_BYTES", len(whole) + len(cut)):
            self.assertIsNone(Accounts(whole + cut + b"off:/bin/bash\n", b"").user("cut"))
            self.assertIsNotNone(Accounts(whole + cut, b"").user("cut"))
        with mock.patch.object(limits, "ACCOUNT_FILE_BYTES", len(group)):
            accounts = Accounts(b"", group + b"land\n")
            self.assertEqual(accounts.group_name(50), None)

    def test_the_file_is_cut_at_the_limit_as_well(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"a:x:1:1::/a:\nb:x:2:2::/bcdef:\n")
            file.flush()
            with mock.patch.object(limits, "ACCOUNT_FILE_BYTES", 24), mock.patch.object(passwd, "PASSWD", file.name):
                accounts = passwd.accounts()
            self.assertEqual((accounts.user_name(1), accounts.user_name(2)), ("a", None))

    def test_the_first_of_equal_names_and_ids_counts(self) -> None:
        accounts = Accounts(PASSWD, GROUP)
        user = accounts.user("user")
        assert user is not None
        self.assertEqual((user.uid, user.gid, user.home), (1000, 1000, "/home/user"))
        self.assertEqual(accounts.groups_of(user), [1000, 6, 29])
        self.assertEqual((accounts.user_name(1000), accounts.group_name(29)), ("user", "audio"))
        self.assertEqual((accounts.user_name(5), accounts.group_name(5)), (None, None))
        short = accounts.user("short")
        assert short is not None
        self.assertEqual(short.home, "/s")

    def test_lines_that_are_not_valid_do_not_count(self) -> None:
        lines = (
            b"u:x:4294967295:0::/:",  # setresuid takes it for "unchanged"
            b"u:x:0:4294967295::/:",
            b"u:x:-1:0::/:",
            b"u:x:99999999999:0::/:",
            b"u:x:1_0:0::/:",
            "u:x:²:0::/:".encode(),
            b"u:x: 1:0::/:",
            b"u:x::0::/:",
            b"u:x:1:0:",
            b"u:x:1:0::/a\0b:",
            b":x:1:0::/:",
            b" u:x:1:0::/:",
            b"+u:x:1:0::/:",
            b"#u:x:1:0::/:",
        )
        for line in lines:
            with self.subTest(line):
                accounts = Accounts(line, b"g:x:4294967295:u\ng:x:1\n")
                for name in ("u", "+u", "#u", " u", ""):
                    self.assertIsNone(accounts.user(name))
                self.assertEqual(accounts._groups, [])

    def test_a_home_that_is_no_absolute_path_is_the_root(self) -> None:
        for home in (b"", b"home", b"../x"):
            user = Accounts(b"u:x:1:1::%s:" % home, b"").user("u")
            assert user is not None
            self.assertEqual(user.home, "/")

    def test_counts_are_bounded(self) -> None:
        passwd_file = b"".join(b"u%d:x:%d:1::/:\n" % (at, at) for at in range(limits.ACCOUNTS + 9))
        self.assertEqual(len(passwd.parse_users(passwd_file)), limits.ACCOUNTS)
        self.assertEqual(passwd.parse_users(b"\n" * limits.ACCOUNT_FILE_BYTES + b"u:x:1:1::/:"), [])
        groups = b"".join(b"g:x:%d:u1\n" % at for at in range(limits.GROUPS_OF_USER + 9))
        accounts = Accounts(passwd_file, groups)
        user = accounts.user("u1")
        assert user is not None
        self.assertEqual(len(accounts.groups_of(user)), limits.GROUPS_OF_USER)

    def test_the_machine_finds_the_same(self) -> None:
        # The one place where the C library may be used: as a reference.
        import grp
        import pwd

        accounts = Accounts(Path(passwd.PASSWD).read_bytes(), Path(passwd.GROUP).read_bytes())
        for line in Path(passwd.PASSWD).read_text().splitlines():
            name = line.split(":")[0]
            user = accounts.user(name)
            assert user is not None
            entry = pwd.getpwnam(name)
            self.assertEqual((user.uid, user.gid, user.home), (entry.pw_uid, entry.pw_gid, entry.pw_dir))
            self.assertEqual(set(accounts.groups_of(user)), set(os.getgrouplist(name, entry.pw_gid)))
            self.assertEqual(accounts.user_name(entry.pw_uid), pwd.getpwuid(entry.pw_uid).pw_name)
            self.assertEqual(accounts.group_name(entry.pw_gid), grp.getgrgid(entry.pw_gid).gr_name)


class Files(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name, file in ("PASSWD", "passwd"), ("GROUP", "group"):
            self.enterContext(mock.patch.object(passwd, name, str(self.root / file)))
        self.enterContext(mock.patch.object(passwd, "_read", None))

    def test_a_changed_file_is_read_again(self) -> None:
        (self.root / "passwd").write_bytes(PASSWD)
        first = passwd.accounts()
        self.assertIs(passwd.accounts(), first)
        (self.root / "passwd").write_bytes(PASSWD + b"new:x:2000:2000::/new:/bin/sh\n")
        self.assertIsNotNone(passwd.accounts().user("new"))

    def test_a_missing_or_odd_file_has_no_accounts(self) -> None:
        for make in (lambda path: None, os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
            make(self.root / "passwd")
            with self.assertRaises(RequestError) as raised:
                account.find("user", True)
            self.assertEqual(raised.exception.code, "not_found")
            if (self.root / "passwd").is_dir():
                (self.root / "passwd").rmdir()
            else:
                (self.root / "passwd").unlink(missing_ok=True)

    def test_a_huge_file_is_read_up_to_the_limit(self) -> None:
        with (self.root / "passwd").open("wb") as file:
            file.write(PASSWD)
            file.truncate(2**40)
        user = passwd.accounts().user("user")
        assert user is not None
        self.assertEqual(user.uid, 1000)


if __name__ == "__main__":
    unittest.main()
