"""Users as images and requests name them, and where relative paths start."""

import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import account, passwd
from neurovisor_agent.account import Environment
from neurovisor_agent.hello import Refused, Welcome
from neurovisor_agent.request import RequestError

PASSWD = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:\napp:x:1234:1234::/srv/home:\n77:x:5:6::/odd:\n"
GROUP = "root:x:0:\ntools:x:77:app\n"
WELCOME = {"sandboxId": "a", "hostname": "b", "wallNs": "1", "entropy": "c"}


class Accounts(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name, text in (("PASSWD", PASSWD), ("GROUP", GROUP)):
            path = Path(folder.name) / name
            path.write_text(text)
            self.enterContext(mock.patch.object(passwd, name, str(path)))
        self.enterContext(mock.patch.object(passwd, "_read", None))
        self.enterContext(mock.patch.object(os, "geteuid", lambda: 0))

    def find(self, name: str | None, environment: Environment | None = None) -> tuple:
        found = account.find(name, True, environment)
        return found.name, found.uid, found.gid, found.groups, found.home

    def test_names_numbers_and_groups(self) -> None:
        for name, expected in {
            "app": ("app", 1234, 1234, [1234, 77], "/srv/home"),
            "1234": ("app", 1234, 1234, [1234, 77], "/srv/home"),
            "app:tools": ("app", 1234, 77, [77], "/srv/home"),
            "app:8": ("app", 1234, 8, [8], "/srv/home"),
            "4242": ("4242", 4242, 0, [0], "/"),
            "4242:tools": ("4242", 4242, 77, [77], "/"),
            "app:": ("app", 1234, 1234, [1234, 77], "/srv/home"),
            # The name of an account comes before a number.
            "77": ("77", 5, 6, [6], "/odd"),
        }.items():
            self.assertEqual(self.find(name), expected, name)

    def test_who_does_not_exist_is_not_root(self) -> None:
        for name in ("nobody", "", ":", ":0", "app:nogroup", "-1", "4294967295", "1:4294967295", "0x0", "²", " 0"):
            with self.assertRaises(RequestError, msg=name):
                self.find(name)

    def test_an_unknown_group_is_named(self) -> None:
        for name in ("root:nosuchgroup", "4242:nosuchgroup"):
            with self.assertRaisesRegex(RequestError, f"group 'nosuchgroup' of user '{name}' does not exist"):
                self.find(name)
        with self.assertRaisesRegex(RequestError, "user 'nobody:nosuchgroup' does not exist"):
            self.find("nobody:nosuchgroup")

    def test_the_default_is_that_of_the_image(self) -> None:
        self.assertEqual(self.find(None)[0], "user")
        self.assertEqual(self.find(None, Environment("", ""))[:2], ("root", 0))
        self.assertEqual(self.find(None, Environment("app:tools", ""))[:3], ("app", 1234, 77))
        self.assertEqual(self.find("root", Environment("app", ""))[0], "root")
        Path(passwd.PASSWD).write_text("")
        self.assertEqual(self.find(None, Environment("", "")), ("0", 0, 0, [0], "/"))

    def test_relative_paths_start_at_the_working_directory_of_the_image(self) -> None:
        for workdir, path, expected in (
            ("/srv/app", "a", "/srv/app/a"),
            ("/srv/app", "~/a", "/srv/home/a"),
            ("/srv/app", "~", "/srv/home"),
            ("/srv/app", "/a", "/a"),
            ("", "a", "/srv/home/a"),
        ):
            found = account.find("app", True, Environment("", workdir))
            self.assertEqual(found.resolve(path), expected)

    def test_the_home_of_the_image_counts_for_every_user(self) -> None:
        found = account.find("app", True)
        for home, keeps, expected in (("/of/image", True, "/of/image"), (None, True, "/srv/home"), ("/x", False, "/srv/home")):
            base = {"HOME": home} if home is not None else {}
            self.assertEqual(account.user_env(base, found, {}, keeps_home=keeps)["HOME"], expected)
        self.assertEqual(account.user_env({"HOME": "/x"}, found, {"HOME": "/mine"}, keeps_home=True)["HOME"], "/mine")

    def test_the_welcome_bounds_what_the_image_says(self) -> None:
        self.assertIsNone(Welcome(WELCOME).environment)
        given = {"user": "app", "workdir": "srv", "later": "field"}
        self.assertEqual(Welcome({**WELCOME, "environment": given}).environment, {"user": "app", "workdir": "/srv"})
        self.assertEqual(Welcome({**WELCOME, "environment": {}}).environment, {"user": "", "workdir": ""})
        for wrong in ([], "x", {"user": 1}, {"workdir": "a\0b"}, {"user": "x" * 257}, {"workdir": "/" * 4097}):
            with self.assertRaises(Refused):
                Welcome({**WELCOME, "environment": wrong})


class BaseEnvTest(unittest.TestCase):
    def test_models(self) -> None:
        env = account.base_env({}, 80)
        self.assertEqual(env["ANTHROPIC_BASE_URL"], "http://127.0.0.1:80")
        self.assertEqual((env["ANTHROPIC_API_KEY"], "ANTHROPIC_AUTH_TOKEN" in env), ("neurovisor", False))

    def test_a_key_of_the_sandbox_keeps_its_server(self) -> None:
        for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
            env = account.base_env({name: "mine"}, 80)
            self.assertEqual(env[name], "mine")
            self.assertNotIn("ANTHROPIC_BASE_URL", env)


if __name__ == "__main__":
    unittest.main()
