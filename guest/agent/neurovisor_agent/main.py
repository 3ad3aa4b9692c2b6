"""Composes the agent's parts and runs the loop."""

from __future__ import annotations

import os
import sys
import time

from . import limits, room
from .cgroup import ROOT, Cgroups
from .hello import Welcome, hello_line
from .link import Link
from .loop import Loop
from .transport import UnixTransport, VsockTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Taken after few imports; the time of later ones is part of `agentToHelloMs`.
_started_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Agent:
    def __init__(self, unix_path: str | None, inference_port: int) -> None:
        self._loop = loop = Loop()
        self._unix_path = unix_path
        self._inference_port = inference_port
        self._transport = (
            UnixTransport(loop, unix_path) if unix_path is not None else VsockTransport(loop)
        )
        in_vm = self._transport.in_vm
        self._cgroups = Cgroups(ROOT if in_vm else None)
        self._problems: list[str] = []
        self._serving = None
        self._link = Link(loop, self._transport, self._hello, self._welcome, self._lost)

    def run(self) -> None:
        if self._transport.in_vm:
            _protect()
            room.connect(int(os.environ["NEUROVISOR_ROOM"]))
        self._link.start()
        self._loop.run()

    def _hello(self) -> bytes:
        init_ns = os.environ.get("NEUROVISOR_INIT_NS", "")
        init = int(init_ns) if init_ns.isdigit() else None
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        timings = {
            "kernelToInitMs": _ms(init) if init is not None else None,
            "initToAgentMs": _ms(_started_ns - init) if init is not None else None,
            "agentToHelloMs": _ms(now - _started_ns),
        }
        overlay = os.environ.get("NEUROVISOR_OVERLAY", "none")
        python = ".".join(map(str, sys.version_info[:3]))
        return hello_line(python, timings, overlay, self._cgroups.user is not None)

    def _welcome(self, welcome: Welcome, done: "Callable[[list[str]], None]") -> None:
        """Applies the welcome. The modules that serve are imported now, not before the hello."""
        from . import serving

        if self._serving is None:
            scripts = (
                f"{self._unix_path}.scripts" if self._unix_path else "/run/neurovisor/scripts"
            )
            self._serving = serving.Serving(
                self._loop,
                self._transport,
                self._cgroups,
                scripts,
                self._inference_port,
                self._link.event,
                lambda: self._link.ready,
            )
        self._serving.apply(welcome, done)

    def _lost(self) -> None:
        if self._serving is not None:
            self._serving.lose_host()


def _ms(ns: int) -> float:
    return round(ns / 1e6, 1)


def _protect() -> None:
    """Exempts the agent from the kernel's OOM killer."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError as error:
        print(f"neurovisor agent: {error}", file=sys.stderr)


def main(arguments: list[str]) -> None:
    """`[--unix PATH] [--inference-port N]`: PATH replaces vsock in tests, N 0 means any free port."""
    unix_path = None
    inference_port = limits.INFERENCE_TCP_PORT
    options = iter(arguments)
    for option in options:
        value = next(options, None)
        if option == "--unix" and value:
            unix_path = value
        elif option == "--inference-port" and value and value.isdigit():
            inference_port = int(value)
        else:
            sys.exit(
                f"neurovisor agent: unknown or incomplete option {option!r}: "
                "use --unix PATH and --inference-port N"
            )
    Agent(unix_path, inference_port).run()
