"""The hello on port 1024, without I/O (protocol section 3).

guest                                    host
hello {protocol, agent, timings, …} ──►
                                    ◄──  welcome {protocol, sandboxId, entropy, env, …} | refused
ready {problems} | refused {code}   ──►
events …                            ──►
"""

from __future__ import annotations

from . import PROTOCOL, VERSION, wire_json


_USER_CHARACTERS = 256
_PATH_CHARACTERS = 4096


class Refused(Exception):
    """One end refuses the other; `code` goes over the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Welcome:
    """A checked welcome."""

    __slots__ = (
        "sandbox_id",
        "hostname",
        "wall_ns",
        "entropy",
        "env",
        "limits",
        "warm",
        "rehearse",
        "network",
        "authority",
        "environment",
        "volumes",
    )

    def __init__(self, message: dict[str, object]) -> None:
        self.sandbox_id = _text(message, "sandboxId", 64)
        self.hostname = _text(message, "hostname", 64)
        wall = _text(message, "wallNs", 20)
        self.entropy = _text(message, "entropy", 1024)
        env = message.get("env", {})
        limits = message.get("limits", {})
        warm = message.get("warm", [])
        if not wall.isascii() or not wall.isdigit():
            raise Refused("invalid_welcome", "wallNs is not a decimal number")
        if not _is_text_dict(env):
            raise Refused("invalid_welcome", "env is not an object of strings")
        if not isinstance(limits, dict):
            raise Refused("invalid_welcome", "limits is not an object")
        if not isinstance(warm, list) or not all(isinstance(name, str) for name in warm):
            raise Refused("invalid_welcome", "warm is not a list of module names")
        self.wall_ns = int(wall)
        self.env: dict[str, str] = env  # pyright: ignore[reportAttributeAccessIssue]
        self.limits: dict[str, int] = {
            key: value for key, value in limits.items() if type(value) is int and value > 0
        }
        self.warm: list[str] = warm
        self.rehearse = message.get("rehearse") is True
        # None: the sandbox has no network. network.py checks it, which most sandboxes never load.
        self.network = message.get("network")
        # None: only the image's certificates are trusted. trust.py checks it.
        self.authority = message.get("authority")
        # None: no volumes. volumes.py checks them.
        self.volumes = message.get("volumes")
        # User and working directory; None: the environment is the system image.
        self.environment: dict[str, str] | None = None
        environment = message.get("environment")
        if environment is not None:
            if not isinstance(environment, dict) or not _is_text_dict(environment):
                raise Refused("invalid_welcome", "environment is not an object of strings")
            user, workdir = environment.get("user", ""), environment.get("workdir", "")
            if len(user) > _USER_CHARACTERS or len(workdir) > _PATH_CHARACTERS:
                raise Refused("invalid_welcome", "user or workdir of environment is too long")
            # A relative one starts at the root, as in Docker.
            self.environment = {"user": user, "workdir": f"/{workdir.lstrip('/')}" if workdir else ""}


def hello_line(python: str, timings: dict[str, float | None], overlay: str, cgroup: bool) -> bytes:
    return wire_json.dumps(
        {
            "type": "hello",
            "protocol": PROTOCOL,
            "agent": VERSION,
            "python": python,
            "timings": timings,
            "overlay": overlay,
            "cgroup": cgroup,
        }
    )


def parse_welcome(line: bytes) -> Welcome:
    """Raises Refused with the reason that the host gets."""
    try:
        message = wire_json.loads(line)
    except ValueError as error:
        raise Refused("invalid_welcome", f"the welcome is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise Refused("invalid_welcome", "the welcome is not an object")
    if message.get("type") == "refused":
        raise Refused("refused_by_host", str(message.get("message", ""))[:500])
    if message.get("type") != "welcome":
        raise Refused("invalid_welcome", "the host's first line is not a welcome")
    if message.get("protocol") != PROTOCOL:
        raise Refused(
            "protocol_version",
            f"the agent speaks protocol {PROTOCOL}, the host {message.get('protocol')!r}",
        )
    return Welcome(message)


class EventBudget:
    """Token bucket for events. Dropped events are counted and reported with the next one that passes."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = float(burst)
        self._then = 0.0
        self.dropped = 0

    def take(self, now: float) -> bool:
        if self._then:
            self._tokens = min(self._burst, self._tokens + (now - self._then) * self._per_s)
        self._then = now
        if self._tokens < 1:
            self.dropped += 1
            return False
        self._tokens -= 1
        return True


def _text(message: dict[str, object], field: str, characters_max: int) -> str:
    value = message.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise Refused(
            "invalid_welcome", f"{field} is not a text of 1 to {characters_max} characters"
        )
    return value


def _is_text_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and "\0" not in text for text in value.values()
    )
