import argparse
import asyncio

from .server import serve

parser = argparse.ArgumentParser(prog="code_interpreter")
parser.add_argument("--port", type=int, default=49999)
parser.add_argument("--environ", default="/var/lib/code-interpreter/environ")
parser.add_argument("--machine-id", default="/etc/machine-id")
parser.add_argument("--warm", default="python,javascript", help="languages with a running kernel")
arguments = parser.parse_args()
warm = [name for name in arguments.warm.split(",") if name]
asyncio.run(serve(arguments.port, arguments.environ, arguments.machine_id, warm))
