"""Installs the certificate that user code trusts beside those of the image, from the hello or an `update`.

    image's bundle (certifi's, if there is none) ── ours between two marks ──► BUNDLE

With it the host can read requests to the hosts of the sandbox's secrets, and fill the secrets in. Loaded only in
a sandbox with secrets. Clients find the bundle through environment variables, which the welcome brings.
"""

from __future__ import annotations

import os
import sys

from .request import RequestError

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Read by update-ca-certificates(8), should the user run it.
SOURCE = "/usr/local/share/ca-certificates/neurovisor.crt"
_CERTIFI = "/usr/local/lib/python{}.{}/dist-packages/certifi/cacert.pem"
_BEGIN = b"# NeuroVisor: begin\n"
_END = b"# NeuroVisor: end\n"
FAILED = "the certificate for secrets could not be installed"
_PEM_CHARACTERS = 16 * 1024
_PEM_START = "-----BEGIN CERTIFICATE-----\n"
_PEM_END = "-----END CERTIFICATE-----\n"


def parse(value: object) -> str | None:
    """None: no certificate. Raises RequestError `invalid_request`."""
    if value is None:
        return None
    is_pem = (
        isinstance(value, str)
        and len(value) <= _PEM_CHARACTERS
        and value.isascii()
        and value.startswith(_PEM_START)
        and value.endswith(_PEM_END)
    )
    if not is_pem:
        raise RequestError("invalid_request", "authority is not a PEM certificate")
    return value  # pyright: ignore[reportReturnType]


def apply(pem: str | None, root: str = "") -> str | None:
    """Installs `pem`, or removes ours. Idempotent. Returns the problem, in a sentence, or None."""
    bundle, source = root + BUNDLE, root + SOURCE
    try:
        others = _others(bundle, root)
        if pem is None:
            if os.path.lexists(source):
                os.unlink(source)
            if others != _read(bundle):
                _write(bundle, others)
            return None
        ours = pem.encode()
        _write(source, ours)
        _write(bundle, others + _BEGIN + ours + _END)
    except OSError as error:
        return str(error)
    return None


def _others(bundle: str, root: str) -> bytes:
    """The bundle without our certificate."""
    text = _read(bundle)
    if not text:
        text = _read(root + _CERTIFI.format(*sys.version_info[:2]))
    before, begin, rest = text.partition(_BEGIN)
    if begin:
        text = before + rest.partition(_END)[2]
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write(path: str, content: bytes) -> None:
    """Replaces the file atomically: programs may be reading it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = path + ".neurovisor"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(fresh, path)
