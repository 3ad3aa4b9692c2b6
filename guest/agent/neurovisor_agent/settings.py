"""Settings that the host may change while the sandbox runs: clock, environment, limits, certificate, network.

Each hello brings all of them. `update` changes them in between, for a sandbox claimed from a pool or one
that was paused. All fields are checked before any is applied, so a wrong one changes nothing.
"""

from __future__ import annotations

import os
import sys
import time

from . import account, limits, stats
from .cgroup import Cgroups, write_text
from .loop import Loop
from .request import Request, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .network import Network, NetworkSettings

# What clock_settime(2) could take; the kernel refuses what is beyond its own limit.
_NANOSECONDS_MAX = 2**63 - 1
_LIMITS = ("memoryMaxBytes", "memoryHighBytes", "pidsMax", "outputBytesMax", "holdMs")


class Settings:
    """`inference_port` is the loopback port of the models, known once the forwarder listens."""

    def __init__(self, loop: Loop, cgroups: Cgroups, in_vm: bool) -> None:
        self._loop = loop
        # None: this sandbox has never had a network, and network.py is not loaded.
        self._network: Network | None = None
        self._has_authority = False
        # Paths of the volumes that were mounted for writing; None: none were mounted. A sandbox that continues has them.
        self.volumes: list[str] | None = None
        # Changes of the certificate: the first is being made.
        self._authorities: list[tuple[str | None, Callable[[str | None], None]]] = []
        self._cgroups = cgroups
        self._in_vm = in_vm
        self._limits: dict[str, int] = {}
        self._memory_total = 0
        self._overcommits = False
        # The environment of every program, which its own variables override.
        self.env: dict[str, str] = {}
        self.inference_port = 0
        # None: the environment is the system image.
        self.environment: account.Environment | None = None
        # Kinds of packages whose clients have a file of configuration.
        self._package_kinds: frozenset[str] = frozenset()

    @property
    def output_max(self) -> int | None:
        return self._limits.get("outputBytesMax")

    def set_env(self, env: dict[str, str]) -> None:
        """Sets the environment of programs started from now on."""
        self.env = account.base_env(env, self.inference_port)
        if not self._in_vm or not (self._package_kinds or "NEUROVISOR_PACKAGES" in env):
            return
        from . import packages

        kinds = packages.configured_kinds(env)
        if kinds == self._package_kinds:
            return
        try:
            packages.configure(kinds)
            self._package_kinds = kinds
        except OSError as error:
            print(f"neurovisor agent: cargo and apt find no packages: {error}", file=sys.stderr)

    def limit(self, wanted: dict[str, int], *, has_changed: bool = False) -> None:
        """Sets the limits. `has_changed`: the guest's memory may have another size.

        Raises OSError, and the limits are then as before.
        """
        # Cached: parsing /proc/meminfo would delay a clone's hello.
        if has_changed or not self._memory_total:
            self._memory_total = stats.memory().get("MemTotal", 0)
        before, self._limits = self._limits, wanted
        try:
            self._apply(wanted)
        except OSError:
            self._limits = before
            self._apply(before)
            raise

    def _apply(self, wanted: dict[str, int]) -> None:
        self._cgroups.limit(wanted, self._memory_total)
        # By default the kernel refuses allocations above its memory, even if the host would add memory on use.
        overcommits = "holdMs" in wanted
        if self._in_vm and overcommits != self._overcommits:
            # Documentation/admin-guide/sysctl/vm.rst: 0 refuses obvious overcommits, 1 refuses none.
            write_text("/proc/sys/vm/overcommit_memory", "1" if overcommits else "0")
            self._overcommits = overcommits

    def parse_network(self, fields: object) -> "NetworkSettings | None":
        """None: no network. Raises RequestError."""
        if fields is None or not self._in_vm:
            return None
        from .network import NetworkSettings

        return NetworkSettings(fields)

    def set_network(self, wanted: "NetworkSettings | None", done: "Callable[[str | None], None]") -> None:
        """Calls `done` with the problem, in a sentence, or None; within `CARD_WAIT_S`."""
        if self._network is None:
            if wanted is None:
                done(None)
                return
            from .network import Network

            self._network = Network(self._loop)
        self._network.apply(wanted, done)

    def parse_authority(self, value: object) -> str | None:
        """None: only the image's certificates are trusted. Raises RequestError."""
        if value is None or not self._in_vm:
            return None
        from . import trust

        return trust.parse(value)

    def set_authority(self, pem: str | None, done: "Callable[[str | None], None]") -> None:
        """Calls `done` with the problem, in a sentence, or None; one change after the other.

        A guest that never had a certificate loads no code.
        """
        if pem is None and not self._has_authority:
            done(None)
            return
        self._has_authority = pem is not None
        self._authorities.append((pem, done))
        if len(self._authorities) == 1:
            self._install_authority()

    def _install_authority(self) -> None:
        # Both imported before the fork, since a child imports nothing.
        from . import trust
        from .worker import start_task

        pem, done = self._authorities[0]

        def installed(problem: str | None) -> None:
            self._authorities.pop(0)
            if self._authorities:
                self._install_authority()
            done(f"{trust.FAILED}: {problem}" if problem is not None else None)

        # In a child: root of the sandbox owns the files, and may have made them anything.
        try:
            start_task(self._loop, lambda: trust.apply(pem), installed, limits.TRUST_S, in_room=True)
        except OSError as error:
            installed(str(error))

    def set_environment(
        self, fields: dict[str, str] | None, done: "Callable[[str | None], None]"
    ) -> None:
        """Makes the working directory where it is missing, as Docker does. Calls `done` with the problem, or None."""
        before = self.environment
        self.environment = account.Environment(**fields) if fields is not None else None
        workdir = self.environment.workdir if self.environment is not None else ""
        # A clone has that of its template.
        if not workdir or not self._in_vm or (before is not None and before.workdir == workdir):
            done(None)
            return
        from .worker import start_task

        def made(problem: str | None) -> None:
            done(f"working directory {workdir!r}: {problem}" if problem is not None else None)

        try:
            make = lambda: os.makedirs(workdir, exist_ok=True)  # noqa: E731
            start_task(self._loop, make, made, limits.WORKDIR_S, in_room=True)
        except OSError as error:
            made(str(error))

    def set_volumes(self, value: object, done: "Callable[[str | None], None]") -> None:
        """Mounts the volumes once in the life of a guest. Calls `done` with the problem, or None. Raises RequestError."""
        if value is None or not self._in_vm or self.volumes is not None:
            done(None)
            return
        from . import volumes

        wanted = volumes.parse(value)

        def mounted(problem: str | None) -> None:
            if problem is None:
                self.volumes = [volume.path for volume in wanted if not volume.read_only]
            done(problem)

        try:
            volumes.mount_all(self._loop, wanted, mounted)
        except OSError as error:
            mounted(f"{volumes.PROBLEM}could not be mounted: {error}")

    def update(self, request: Request, done: "Callable[[str | None], None]") -> None:
        """Applies all fields or none, except certificate and network, which come last: `done` gets their problem.

        Raises RequestError, or OSError when the kernel refuses a value.
        """
        wall_ns = parse_wall_ns(request)
        changes_network = "network" in request.fields
        network = self.parse_network(request.fields.get("network"))
        changes_authority = "authority" in request.fields
        authority = self.parse_authority(request.fields.get("authority"))
        env = request.env("env") if request.fields.get("env") is not None else None
        wanted = parse_limits(request)
        before = self._limits
        if wanted is not None:
            self.limit(wanted, has_changed=True)
        if wall_ns is not None and self._in_vm:
            try:
                time.clock_settime_ns(time.CLOCK_REALTIME, wall_ns)
            except OSError:
                self.limit(before)
                raise
        if env is not None:
            self.set_env(env)

        def trusted(problem: str | None) -> None:
            if problem is not None:
                done(problem)
            elif changes_network:
                self.set_network(network, done)
            else:
                done(None)

        if changes_authority:
            self.set_authority(authority, trusted)
        else:
            trusted(None)


def parse_wall_ns(request: Request) -> int | None:
    text = request.optional_text("wallNs")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > _NANOSECONDS_MAX:
        raise RequestError(
            "invalid_request", "wallNs is not a time in nanoseconds, as decimal text"
        )
    return int(text)


def parse_limits(request: Request) -> dict[str, int] | None:
    """The given limits; None: the request has no `limits`."""
    value = request.fields.get("limits")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RequestError("invalid_request", "limits is not an object")
    given = Request(value)
    wanted = {name: given.number(name, 0, 1, 2**53) for name in _LIMITS}
    return {name: number for name, number in wanted.items() if number}
