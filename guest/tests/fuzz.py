"""Fuzzes a part of the agent by Atheris, which `tools/fuzz/agent.ts` installs:

    python3 fuzz.py TARGET DIRECTORY [options of libFuzzer]

The directory has the inputs to start from, and gets those that are found.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["neurovisor_agent", "fuzz_canary"]):
    import fuzz_canary
    import fuzz_targets

_program, name, directory, *options = sys.argv
check = fuzz_canary.canary if name == "canary" else fuzz_targets.TARGETS[name]
for at, seed in enumerate(fuzz_targets.SEEDS.get(name, ())):
    (Path(directory) / f"seed-{at}").write_bytes(seed)
atheris.Setup([sys.argv[0], *options, directory], check)
atheris.Fuzz()
