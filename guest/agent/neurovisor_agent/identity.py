"""Makes this guest the sandbox that the welcome names: entropy, clock, host name, machine id.

Two clones of one snapshot must share none of these (R-G-11), so every hello sets them all.
"""

from __future__ import annotations

import binascii
import os
import time
from fcntl import ioctl

from .cgroup import write_text
from .hello import Refused, Welcome

# include/uapi/linux/random.h
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207

# In memory, made by init, which also makes the links to them in the room's /etc. Through overlay and ext4, a clone
# would read directories from its disk before it could report ready.
HOSTNAME = "/run/neurovisor/hostname"
HOSTS = "/run/neurovisor/hosts"
MACHINE_ID = "/run/neurovisor/machine-id"


def apply(welcome: Welcome) -> None:
    """Raises Refused: a guest with only a part of this identity must not run (fail closed)."""
    try:
        _add_entropy(welcome.entropy)
        time.clock_settime_ns(time.CLOCK_REALTIME, welcome.wall_ns)
        write_text("/proc/sys/kernel/hostname", welcome.hostname)
        _write(HOSTNAME, welcome.hostname + "\n")
        _write(
            HOSTS,
            f"127.0.0.1 localhost {welcome.hostname}\n::1 localhost ip6-localhost\n",
        )
        # After the entropy, so that two clones get different ids.
        _write(MACHINE_ID, binascii.hexlify(os.urandom(16)).decode() + "\n")
    except (OSError, ValueError) as error:
        raise Refused("identity_failed", f"the identity could not be applied: {error}") from error


def _add_entropy(encoded: str) -> None:
    entropy = binascii.a2b_base64(encoded, strict_mode=True)
    if len(entropy) < 32:
        raise Refused("invalid_welcome", "fewer than 32 bytes of entropy")
    # struct rand_pool_info: int entropy_count (bits); int buf_size (bytes); buf
    pool = (len(entropy) * 8).to_bytes(4, "little") + len(entropy).to_bytes(4, "little") + entropy
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        ioctl(fd, _RNDADDENTROPY, pool)
        ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
