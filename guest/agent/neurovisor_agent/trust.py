"""The certificate in which user code is to trust beside those of the image, as the hello or an `update` says.

    image's bundle (or certifi's, where there is none) ── ours between two marks ──► BUNDLE

With it the host reads, and fills in, requests to the hosts that the sandbox's secrets belong to. Loaded only in a
sandbox that has secrets. Clients find it by environment variables, which come with the welcome.
"""

from __future__ import annotations

import os
import sys

from .request import RequestError

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Where update-ca-certificates(8) takes it from, should the user install it.
SOURCE = "/usr/local/share/ca-certificates/neurovisor.crt"
_CERTIFI = "/usr/local/lib/python{}.{}/dist-packages/certifi/cacert.pem"
_BEGIN = b"# NeuroVisor: begin\n"
_END = b"# NeuroVisor: end\n"
_PEM_CHARACTERS = 16 * 1024
_PEM_START = "-----BEGIN CERTIFICATE-----\n"
_PEM_END = "-----END CERTIFICATE-----\n"


def parse(value: object) -> str | None:
    """None: there is none. Raises RequestError `invalid_request`."""
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
        raise RequestError("invalid_request", "authority is no certificate as PEM")
    return value  # pyright: ignore[reportReturnType]


def apply(pem: str | None, root: str = "") -> str | None:
    """The same again changes nothing. Returns what could not be done, in a sentence, or None."""
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
        return f"the certificate for secrets could not be installed: {error}"
    return None


def _others(bundle: str, root: str) -> bytes:
    """What is trusted without ours."""
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
    """Whole or not at all: programs may be reading it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = path + ".neurovisor"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(fresh, path)
