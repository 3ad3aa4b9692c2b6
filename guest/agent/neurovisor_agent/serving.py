"""Serves the host once the welcome has given the sandbox its identity."""

from __future__ import annotations

from . import account, limits
from .cgroup import Cgroups
from .connection import Connection
from .hello import Refused, Welcome
from .loop import Loop
from .request import RequestError
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .operations import Operations
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
        is_linked: "Callable[[], bool]",
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._cgroups = cgroups
        self._scripts_dir = scripts_dir
        self._inference_port = inference_port
        self._event = event
        self._is_linked = is_linked
        self._settings = Settings(loop, cgroups, transport.in_vm)
        self._problems: list[str] | None = None
        self._warm: list[str] | None = None
        self._operations: Operations | None = None
        # Now, so that the host may send requests as soon as it has read `ready`.
        transport.listen(self._accept)

    def apply(self, welcome: Welcome, done: "Callable[[list[str]], None]") -> None:
        """Applies the welcome of each hello: a clone of a snapshot gets another identity. Passes problems to `done`.

        Raises Refused.
        """
        try:
            network = self._settings.parse_network(welcome.network)
            authority = self._settings.parse_authority(welcome.authority)
        except RequestError as error:
            raise Refused("invalid_welcome", f"network, authority: {error}") from None
        problems: list[str] = []
        # Volumes are mounted while the rest is applied.
        waits = 2
        try:
            self._settings.limit(welcome.limits)
        except OSError as error:
            problems.append(f"the limits of user code could not be set: {error}")

        def note(problem: str | None) -> None:
            if problem is not None:
                problems.append(problem)

        def applied(problem: str | None) -> None:
            nonlocal waits
            note(problem)
            waits -= 1
            if waits > 0:
                return
            if self._problems is None:
                self._problems = self._find_problems()
            done([*self._problems, *problems])

        def trusted(problem: str | None) -> None:
            note(problem)
            # The rest, half of it imports, runs after the answer to the host and before any request.
            self._loop.after(0, lambda: self._prepare(welcome))
            self._settings.set_network(network, applied)

        def settled(problem: str | None) -> None:
            note(problem)
            self._settings.set_authority(authority, trusted)

        try:
            self._settings.set_volumes(welcome.volumes, applied)
        except RequestError as error:
            raise Refused("invalid_welcome", f"volumes: {error}") from None
        self._settings.set_environment(welcome.environment, settled)

    def _prepare(self, welcome: Welcome) -> None:
        if self._operations is None:
            from .forward import Forwarder
            from .monitor import Monitor
            from .operations import Operations
            from .victims import Victims

            self._forwarder = Forwarder(
                self._loop,
                self._transport,
                self._inference_port,
                limits.PORT_INFERENCE,
                self._is_linked,
            )
            # Tests of an agent outside a VM give port 0; several agents then share this machine.
            packages_port = limits.PACKAGES_TCP_PORT if self._inference_port else 0
            self._packages = Forwarder(
                self._loop, self._transport, packages_port, limits.PORT_PACKAGES, self._is_linked
            )
            victims = Victims(self._loop, self._transport.in_vm)
            self._monitor = Monitor(self._loop, self._cgroups, victims, self._event)
            self._settings.inference_port = self._forwarder.tcp_port
            self._operations = Operations(
                self._loop,
                self._cgroups,
                self._settings,
                self._scripts_dir,
                self._transport.in_vm,
                victims,
                self._event,
            )
        operations = self._operations
        operations.unsettle()
        self._settings.set_env(welcome.env)
        if self._warm != welcome.warm:
            self._warm = welcome.warm
            self._start_fork_server(operations, welcome.rehearse)

    def lose_host(self) -> None:
        if self._operations is not None:
            self._operations.lose_host()

    def _accept(self, connection: Connection, first: bytes) -> None:
        if self._operations is None:
            connection.abort()  # By the protocol a host dials only after its welcome.
        else:
            self._operations.accept(connection, first)

    def _find_problems(self) -> list[str]:
        """What this environment lacks. Checked once: it does not change, and a clone's first hello must be quick."""
        problems = []
        if not self._transport.in_vm:
            problems.append("outside a VM: clock, host name, machine id, network and entropy stay unchanged")
        if self._cgroups.user is None:
            problems.append(
                "no cgroup v2: user code has no limits, and kills reach only process groups"
            )
        try:
            account.find(None, self._transport.in_vm, self._settings.environment)
        except account.RequestError as error:
            problems.append(str(error))
        return problems

    def _start_fork_server(self, operations: "Operations", rehearse: bool) -> None:
        from .fork_server import ForkServer

        if operations.fork_server is not None:
            operations.fork_server.close()
        operations.fork_server = ForkServer(
            self._loop,
            self._warm or [],
            rehearse,
            self._settings.env,
            self._cgroups,
            self._warmed,
            has_own_python=self._settings.environment is not None,
        )

    def _warmed(self, modules: list[object]) -> None:
        # No request waits now: import here what a worker's first request would have to wait for.
        from . import files, watch  # noqa: F401

        self._event("warm", modules=modules)
