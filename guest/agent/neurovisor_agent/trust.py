"""Installs the certificate that user code trusts beside those of the image, from the hello or an `update`.

    image's bundle (another, as certifi's, if there is none) ── ours between two marks ──► BUNDLE

With it the host can read requests to the hosts of the sandbox's secrets, and fill the secrets in. Loaded only in
a sandbox with secrets. Clients find the bundle through environment variables, which the welcome brings.
"""

from __future__ import annotations

import errno
import os

from .request import RequestError

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# update-ca-certificates(8) reads it, if the user runs that.
SOURCE = "/usr/local/share/ca-certificates/neurovisor.crt"
# Bundles of other distributions; those of Python packages (certifi) are below these.
_OTHER_BUNDLES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_PYTHON_PARENTS = ("/usr/local/lib", "/usr/lib")
_CERTIFI = ("dist-packages/certifi/cacert.pem", "site-packages/certifi/cacert.pem")
_BUNDLE_BYTES = 8 * 1024 * 1024
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
    for other in _other_bundles(root) if not text else ():
        text = _read(other)
        if text:
            break
    before, begin, rest = text.partition(_BEGIN)
    if begin:
        text = before + rest.partition(_END)[2]
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _other_bundles(root: str) -> list[str]:
    found = [root + path for path in _OTHER_BUNDLES]
    for parent in _PYTHON_PARENTS:
        try:
            names = os.listdir(root + parent)
        except OSError:
            continue
        pythons = sorted(name for name in names if name.startswith("python3"))
        found += [f"{root}{parent}/{python}/{path}" for python in pythons for path in _CERTIFI]
    return found


def _read(path: str) -> bytes:
    """At most `_BUNDLE_BYTES`; empty when missing. Raises OSError."""
    try:
        with open(path, "rb") as file:
            text = file.read(_BUNDLE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    if len(text) > _BUNDLE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return text


def _write(path: str, content: bytes) -> None:
    """Replaces the file atomically: programs may be reading it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = path + ".neurovisor"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(fresh, path)
