"""The inputs that fuzzing has kept, and some that are made from them, with the seed of the run."""

import os
import random
import unittest

from fuzz_targets import SEEDS, TARGETS, kept

_CHANGES = 300


class Inputs(unittest.TestCase):
    def test_kept_inputs_show_no_bug(self) -> None:
        for name, check in TARGETS.items():
            for data in (b"", *SEEDS[name], *kept("crashers", name), *kept("corpus", name)):
                with self.subTest(name, data=data):
                    check(data)

    def test_changed_inputs_show_no_bug(self) -> None:
        seed = int(os.environ.get("NEUROVISOR_SEED") or random.randrange(2**31))
        rng = random.Random(seed)
        for name, check in TARGETS.items():
            known = [*SEEDS[name], *kept("corpus", name)]
            for _ in range(_CHANGES):
                data = bytearray(rng.choice(known))
                for _ in range(rng.randrange(1, 4)):
                    at = rng.randrange(len(data) + 1)
                    data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
                with self.subTest(name, seed=seed, data=bytes(data)):
                    check(bytes(data))
