"""Configures the sandbox's network card for the hello or an `update`: address, route, neighbor, resolver.

    wanted ─► find the card by its MAC ─► MTU, address, up, the gateway's MAC, route ─► resolv.conf
                  ├─ exactly one other card: a clone's, with the MAC of the saved VM; it gets the new MAC
                  └─ no card yet: look again (it is plugged beside the device that carries the hello)

Loaded only in a sandbox that has a network. Runs no program: ioctls do everything.
"""

from __future__ import annotations

import _socket
import os
import struct
from fcntl import ioctl

from . import limits
from .loop import Loop, Timer
from .request import Request, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# In memory; /etc/resolv.conf is a link to it.
RESOLV_CONF = "/run/neurovisor/resolv.conf"
_CARDS = "/sys/class/net"

# include/uapi/linux/sockios.h
_SIOCADDRT = 0x890B
_SIOCSIFFLAGS = 0x8914
_SIOCGIFADDR = 0x8915
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_SIOCSIFMTU = 0x8922
_SIOCSIFHWADDR = 0x8924
_SIOCSARP = 0x8955
# include/uapi/linux/if.h, route.h, if_arp.h
_IFF_UP_MULTICAST = 0x1 | 0x1000
_RTF_UP_GATEWAY = 0x1 | 0x2
_ARPHRD_ETHER = 1
_ATF_COM_PERM = 0x2 | 0x4
_NAME_BYTES = 16

_MTU_MIN = 576
_MTU_MAX = 65_535


class NetworkSettings:
    """The checked fields of `network`."""

    __slots__ = ("mac", "address", "prefix", "gateway", "gateway_mac", "mtu")

    def __init__(self, fields: object) -> None:
        """Raises RequestError `invalid_request`."""
        request = Request(fields)
        self.mac = request.text("mac").lower()
        self.gateway_mac = _mac(request.text("gatewayMac"), "gatewayMac")
        _mac(self.mac, "mac")
        self.address = _address(request.text("address"), "address")
        self.gateway = _address(request.text("gateway"), "gateway")
        self.prefix = request.number("prefixLength", 0, 1, 32)
        self.mtu = request.number("mtu", 1500, _MTU_MIN, _MTU_MAX)
        if self.prefix == 0:
            raise RequestError("invalid_request", "prefixLength is missing")


class Network:
    """At most one card. A later `apply` replaces an earlier one that still waits for its card."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._look: Timer | None = None
        self._done: Callable[[str | None], None] = lambda _problem: None
        self._name: str | None = None

    def apply(self, wanted: NetworkSettings | None, done: "Callable[[str | None], None]") -> None:
        """Calls `done` with the problem, in a sentence, or None."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
            self._done("another change of the network came before the card appeared")
        if wanted is None:
            done(self._remove())
        else:
            self._await(wanted, done, limits.CARD_WAIT_S)

    def _await(
        self, wanted: NetworkSettings, done: "Callable[[str | None], None]", left_s: float
    ) -> None:
        self._look = None
        try:
            name = _find(wanted.mac)
            if name is not None:
                _configure(name, wanted)
                self._name = name
        except OSError as error:
            done(f"the network card could not be configured: {error}")
            return
        if name is not None:
            done(None)
        elif left_s <= 0:
            done(f"no network card {wanted.mac} appeared within {limits.CARD_WAIT_S:g} s")
        else:
            self._done = done
            self._look = self._loop.after(
                limits.CARD_LOOK_S,
                lambda: self._await(wanted, done, left_s - limits.CARD_LOOK_S),
            )

    def _remove(self) -> str | None:
        """Sets the card down. The host unplugs it, which removes address, route and neighbor."""
        try:
            if os.path.lexists(RESOLV_CONF):
                os.unlink(RESOLV_CONF)
            if self._name is not None and os.path.exists(f"{_CARDS}/{self._name}"):
                _set_down(self._name)
        except OSError as error:
            return f"the network could not be removed: {error}"
        self._name = None
        return None


def _find(mac: str) -> str | None:
    """The card with that MAC; else the only card there is, after giving it that MAC."""
    others = []
    for name in os.listdir(_CARDS):
        try:
            if _read(f"{_CARDS}/{name}/address") == mac:
                return name
            # Virtual interfaces that programs make, such as bridges, have no device.
            if os.path.exists(f"{_CARDS}/{name}/device"):
                others.append(name)
        except OSError:
            continue  # Unplugged meanwhile.
    if len(others) != 1:
        return None
    _set_down(others[0])
    hardware = struct.pack("=H14s", _ARPHRD_ETHER, _mac(mac, "mac"))
    _ioctl(_SIOCSIFHWADDR, _ifreq(others[0], hardware))
    return others[0]


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _set_down(name: str) -> None:
    """Also removes routes and neighbors."""
    _ioctl(_SIOCSIFFLAGS, _ifreq(name, struct.pack("=H", 0)))


def _address_of(name: str) -> bytes | None:
    """The card's IPv4 address: struct ifreq holds a struct sockaddr_in, with the address at byte 4."""
    try:
        return _ioctl(_SIOCGIFADDR, _ifreq(name, b""))[_NAME_BYTES + 4 : _NAME_BYTES + 8]
    except OSError:
        return None


def _configure(name: str, wanted: NetworkSettings) -> None:
    """Idempotent: a hello may come twice with one card."""
    _disable_ipv6(name)
    if _address_of(name) not in (None, wanted.address):
        _set_down(name)
    mask = (0xFFFFFFFF << (32 - wanted.prefix) & 0xFFFFFFFF).to_bytes(4, "big")
    _ioctl(_SIOCSIFMTU, _ifreq(name, struct.pack("=i", wanted.mtu)))
    _ioctl(_SIOCSIFADDR, _ifreq(name, _sockaddr(wanted.address)))
    _ioctl(_SIOCSIFNETMASK, _ifreq(name, _sockaddr(mask)))
    _ioctl(_SIOCSIFFLAGS, _ifreq(name, struct.pack("=H", _IFF_UP_MULTICAST)))
    # Before the route, so that no packet needs ARP: the first request of a fresh card may be lost, and
    # the kernel repeats it only after a second.
    hardware = struct.pack("=H14s", _ARPHRD_ETHER, wanted.gateway_mac)
    _ioctl(
        _SIOCSARP,
        struct.pack(
            f"=16s16si16s{_NAME_BYTES}s",
            _sockaddr(wanted.gateway),
            hardware,
            _ATF_COM_PERM,
            b"",
            name.encode(),
        ),
    )
    try:
        _ioctl(_SIOCADDRT, _default_route(wanted.gateway))
    except FileExistsError:
        pass
    text = f"nameserver {_socket.inet_ntoa(wanted.gateway)}\n"
    fd = os.open(RESOLV_CONF, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _disable_ipv6(name: str) -> None:
    """The host's side has no IPv6; without this the kernel probes for it for seconds."""
    try:
        fd = os.open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # A kernel without IPv6.
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def _ioctl(request: int, argument: bytes) -> bytes:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        return ioctl(sock.fileno(), request, argument)
    finally:
        sock.close()


def _ifreq(name: str, value: bytes) -> bytes:
    """struct ifreq: the name, and a union of 24 bytes."""
    return struct.pack(f"={_NAME_BYTES}s24s", name.encode(), value)


def _sockaddr(address: bytes) -> bytes:
    """struct sockaddr_in, 16 bytes."""
    return struct.pack("=HH4s8x", _socket.AF_INET, 0, address)


def _default_route(gateway: bytes) -> bytes:
    """struct rtentry of a 64-bit kernel: destination, gateway, mask, flags; the rest is zero (120 bytes)."""
    anywhere = _sockaddr(bytes(4))
    return struct.pack("=8x16s16s16sH62x", anywhere, _sockaddr(gateway), anywhere, _RTF_UP_GATEWAY)


def _mac(text: str, field: str) -> bytes:
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise RequestError("invalid_request", f"{field} is not a MAC address")
    try:
        return bytes(int(part, 16) for part in parts)
    except ValueError:
        raise RequestError("invalid_request", f"{field} is not a MAC address") from None


def _address(text: str, field: str) -> bytes:
    try:
        return _socket.inet_aton(text)
    except OSError:
        raise RequestError("invalid_request", f"{field} is not an IPv4 address") from None
