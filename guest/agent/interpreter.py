"""Entry point of a Python that runs scripts of the user, not the agent:

    python3 -I -S interpreter.py fork-server SOCKET          zygote.py
    python3 -I -S interpreter.py script LAUNCH STATUS        script.py

The arguments are numbers of inherited descriptors. The Python may be that of a user's image, and of any version.
"""

import os
import sys

# Isolated mode leaves this directory out of the module path. script.py removes it before any code of the user runs.
sys.path.insert(0, __file__.rpartition("/")[0])

kind, *numbers = sys.argv[1:]
fds = [int(number) for number in numbers]
if sys.version_info < (3, 10):
    # Before any import of ours, which older ones can't compile.
    if kind == "fork-server":
        os.write(fds[0], b'{"type":"unusable"}\n')
    else:
        os.write(fds[1], b"exec 0 this image has no Python 3.10 or newer: use exec")
elif kind == "fork-server":
    from neurovisor_agent.zygote import serve

    serve(*fds)
else:
    from neurovisor_agent.script import serve_one

    serve_one(*fds)
