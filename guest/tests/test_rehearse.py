"""The rehearsal of a template: what it forgets, and what it must not touch."""

import functools
import sys
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import rehearse


class ForgetEnvironment(unittest.TestCase):
    def test_clears_the_caches_of_the_package_alone(self) -> None:
        caches = {}
        for name in ("rehearsed", "rehearsed.env", "rehearsedx"):
            module = types.ModuleType(name)

            @functools.lru_cache
            def read() -> str:
                return "kept"

            read.__module__ = name
            read()
            module.read = read  # type: ignore[attr-defined]
            caches[name] = read
        rehearse._forget_environment("rehearsed")
        sizes = {name: read.cache_info().currsize for name, read in caches.items()}
        self.assertEqual(sizes, {"rehearsed": 0, "rehearsed.env": 0, "rehearsedx": 1})

    def test_asks_no_proxy_for_its_class(self) -> None:
        asked = []

        class Proxy:
            @property
            def __class__(self):  # type: ignore[override]
                asked.append(True)
                return dict

        proxy = Proxy()
        rehearse._forget_environment("rehearsed")
        self.assertEqual(asked, [])
        self.assertIsInstance(proxy, dict)
        self.assertEqual(asked, [True])


if __name__ == "__main__":
    sys.exit(unittest.main())
