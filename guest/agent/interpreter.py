"""Entry point of a Python that runs scripts of the user, not the agent:

    python3 -I -S interpreter.py fork-server SOCKET          zygote.py
    python3 -I -S interpreter.py script LAUNCH STATUS        script.py

The arguments are numbers of inherited descriptors.
"""

import sys

# Isolated mode leaves this directory out of the module path. script.py removes it before any code of the user runs.
sys.path.insert(0, __file__.rpartition("/")[0])

kind, *numbers = sys.argv[1:]
fds = [int(number) for number in numbers]
if kind == "fork-server":
    from neurovisor_agent.zygote import serve

    serve(*fds)
else:
    from neurovisor_agent.script import serve_one

    serve_one(*fds)
