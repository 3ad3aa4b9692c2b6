"""Entry point: `python3 -I -S /opt/neurovisor/agent/__main__.py [--unix PATH]`."""

import sys

# Isolated mode leaves the script's directory out of the module path.
sys.path.insert(0, __file__.rpartition("/")[0])

from neurovisor_agent.main import main

main(sys.argv[1:])
