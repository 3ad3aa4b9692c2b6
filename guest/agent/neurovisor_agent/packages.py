"""Points cargo and apt at the packages of the host. Other clients find them by variables, which the host sends."""

from __future__ import annotations

import os

from . import limits

# In memory, and outside the image: any image's apt and cargo can be pointed here.
_DIR = "/run/neurovisor"
_ORIGIN = f"http://127.0.0.1:{limits.PACKAGES_TCP_PORT}"
# Kind of packages -> file and content.
_FILES = {
    # `/.cargo/config.toml` of the image is a link to it.
    "cargo": (
        "cargo.toml",
        '[source.crates-io]\nreplace-with = "neurovisor"\n\n'
        f'[source.neurovisor]\nregistry = "sparse+{_ORIGIN}/cargo/index/"\n',
    ),
    # Named by APT_CONFIG. Translated descriptions are two fifths of what `apt-get update` fetches.
    "apt": (
        "apt.conf",
        f'Acquire::http::Proxy "{_ORIGIN}";\nAcquire::Languages "none";\n',
    ),
}


def configured_kinds(env: dict[str, str]) -> frozenset[str]:
    return frozenset(env.get("NEUROVISOR_PACKAGES", "").split(",")) & _FILES.keys()


def configure(kinds: frozenset[str]) -> None:
    """Writes the files of these kinds and removes the others. Raises OSError."""
    for kind, (name, content) in _FILES.items():
        path = os.path.join(_DIR, name)
        if kind not in kinds:
            if os.path.exists(path):
                os.unlink(path)
            continue
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, 0o644)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
