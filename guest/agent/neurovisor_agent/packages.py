"""Points cargo at the packages of the host. Other clients find them by variables, which the host sends."""

from __future__ import annotations

import os

from . import limits

# In memory; `/.cargo/config.toml` of the image is a link to it.
CARGO = "/run/neurovisor/cargo.toml"
_REGISTRY = f"sparse+http://127.0.0.1:{limits.PACKAGES_TCP_PORT}/cargo/index/"
_CONFIG = (
    '[source.crates-io]\nreplace-with = "neurovisor"\n\n'
    f'[source.neurovisor]\nregistry = "{_REGISTRY}"\n'
)


def serves_cargo(env: dict[str, str]) -> bool:
    return "cargo" in env.get("NEUROVISOR_PACKAGES", "").split(",")


def configure_cargo(serves: bool) -> None:
    """Raises OSError."""
    if not serves:
        if os.path.exists(CARGO):
            os.unlink(CARGO)
        return
    fd = os.open(CARGO, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, _CONFIG.encode())
    finally:
        os.close(fd)
