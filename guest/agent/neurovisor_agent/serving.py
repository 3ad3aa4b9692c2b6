"""What the agent does once the host has said who the sandbox is."""
from __future__ import annotations

import os

from . import account, stats
from .cgroup import Cgroups
from .fork_server import ForkServer
from .forward import Forwarder
from .hello import Welcome
from .loop import Loop
from .monitor import Monitor
from .operations import Operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import UnixTransport, VsockTransport


class Serving:
    def __init__(
        self,
        loop: Loop,
        transport: "VsockTransport | UnixTransport",
        cgroups: Cgroups,
        scripts_dir: str,
        inference_port: int,
        event: "Callable[..., None]",
    ) -> None:
        self._loop = loop
        self._in_vm = transport.in_vm
        self._cgroups = cgroups
        self._event = event
        self._warm: list[str] | None = None
        self._forwarder = Forwarder(loop, transport, inference_port)
        self._operations = Operations(loop, cgroups, scripts_dir, transport.in_vm, event)
        self._monitor = Monitor(loop, cgroups, event)
        transport.listen(self._operations.accept)

    def apply(self, welcome: Welcome) -> list[str]:
        """Called at every hello: a clone of a snapshot gets another identity. Returns what went wrong."""
        problems = self._problems()
        try:
            self._cgroups.limit(welcome.limits, stats.memory().get("MemTotal", 0))
        except OSError as error:
            problems.append(f"the limits of user code could not be set: {error}")
        self._operations.env = account.base_env(welcome.env, self._forwarder.tcp_port)
        self._operations.output_max = welcome.limits.get("outputBytesMax")
        if self._warm != welcome.warm:
            self._warm = welcome.warm
            # After the answer to the host: the hello must not wait for it.
            self._loop.after(0, self._start_fork_server)
        return problems

    def _problems(self) -> list[str]:
        problems = []
        if not self._in_vm:
            problems.append("outside a VM: clock, host name, machine id and entropy are left alone")
        if self._cgroups.user is None:
            problems.append("no cgroup v2: user code is not limited, and only process groups are killed")
        try:
            account.find(account.DEFAULT_USER, self._in_vm)
        except account.RequestError as error:
            problems.append(f"{error}; programs run as uid {os.geteuid()}")
        return problems

    def _start_fork_server(self) -> None:
        if self._operations.fork_server is not None:
            self._operations.fork_server.close()
        self._operations.fork_server = ForkServer(
            self._loop,
            self._warm or [],
            self._operations.env,
            self._cgroups,
            lambda modules: self._event("warm", modules=modules),
        )
