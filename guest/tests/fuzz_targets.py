"""What is fuzzed of the agent: functions that take any bytes and raise if they show a bug."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import hello, limits, passwd, trust, victims, wire_json
from neurovisor_agent.fork_server import Message
from neurovisor_agent.framing import BODY, STDIN, FrameDecoder, LineDecoder, ProtocolError
from neurovisor_agent.network import NetworkSettings
from neurovisor_agent.request import Request, RequestError
from neurovisor_agent.settings import parse_limits, parse_wall_ns

INPUTS = Path(__file__).parents[2] / "test" / "fuzz"
_LINE_BYTES = 60
_FIELDS = ("op", "path", "user", "cwd", "argv", "env", "pid", "size", "timeoutMs")


def _pieces(data: bytes) -> list[bytes]:
    """Cut at places that depend on the data alone."""
    pieces, at, state = [], 0, sum(data) + 7 * len(data)
    while at < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        size = (1, 2, 3, 5, 9, 17, 60, 250)[state >> 16 & 7]
        pieces.append(data[at : at + size])
        at += size
    return pieces


def _lines(pieces: list[bytes]) -> list[object]:
    decoder, out = LineDecoder(_LINE_BYTES), []
    for piece in pieces:
        rest = piece
        while True:
            try:
                found = decoder.receive(rest)
            except ProtocolError as error:
                return [*out, str(error)]
            if found is None:
                break
            out.append(found[0])
            rest = found[1]
    return out


def _frames(pieces: list[bytes]) -> list[object]:
    decoder, out = FrameDecoder((STDIN, BODY)), []
    for piece in pieces:
        missing = decoder.missing(piece)
        assert 0 <= missing <= len(piece), f"{missing} of {len(piece)} bytes are missing"
        try:
            out += decoder.receive(piece)
        except ProtocolError as error:
            # Frames before it in the same piece are of no use: the connection ends.
            return [str(error)]
    return out


def wire(data: bytes) -> None:
    """Lines and frames: the same however the bytes are cut."""
    for read in (_lines, _frames):
        whole = read([data])
        for cut in (_pieces(data), [bytes((byte,)) for byte in data]):
            got = read(cut)
            assert got == whole, f"cut matters: {got!r} {whole!r}"


def text(data: bytes) -> None:
    """JSON: what the small reader takes, the full one takes, with the same value; and it can be written again."""
    try:
        value = wire_json.loads(data)
    except ValueError:
        return
    full = json.loads(data.decode(), parse_constant=_no_constant)
    assert repr(full) == repr(value), "read differently"
    try:
        written = wire_json.dumps(value)
    except (ValueError, RecursionError):
        return  # An infinite number, or nested too deeply to write.
    assert b"\n" not in written, "more than a line"
    assert repr(wire_json.loads(written)) == repr(value), "reads back differently"


def _no_constant(constant: str) -> object:
    raise AssertionError(f"{constant} was taken for a number")


def messages(data: bytes) -> None:
    """The welcome and requests of the host: checked values, or a refusal with its reason."""
    try:
        welcome = hello.parse_welcome(data)
        assert welcome.wall_ns >= 0
        assert all(number > 0 for number in welcome.limits.values())
    except hello.Refused as refused:
        assert refused.code, "no code"
    try:
        fields = wire_json.loads(data)
    except ValueError:
        return
    for check in (_request, _settings, lambda value: NetworkSettings(value)):
        try:
            check(fields)
        except RequestError as error:
            assert error.code == "invalid_request", error.code


def _request(fields: object) -> None:
    request = Request(fields)
    for field in _FIELDS:
        for read in (request.text, request.texts, request.env, request.size):
            try:
                read(field)
            except RequestError as error:
                assert str(error), "no reason"
        number = _number(request, field)
        assert 0 <= number <= limits.TEXT_CHARACTERS


def _number(request: Request, field: str) -> int:
    try:
        return request.number(field, 0, 0, limits.TEXT_CHARACTERS)
    except RequestError:
        return 0


def _settings(fields: object) -> None:
    request = Request(fields)
    wall = parse_wall_ns(request)
    assert wall is None or wall >= 0
    wanted = parse_limits(request)
    assert wanted is None or all(number >= 1 for number in wanted.values())
    trust.parse(request.fields.get("authority"))


def kernel(data: bytes) -> None:
    """Records of /dev/kmsg, which hold names that processes chose."""
    found = victims.parse(data.decode("utf-8", "replace"))
    if found is None:
        return
    pid, name, rss = found
    assert pid >= 0 and rss >= 0 and len(name) <= limits.NAME_CHARACTERS


def accounts(data: bytes) -> None:
    """The account files: usable ids, text that an environment can hold, and the same when they are written again."""
    users, groups = passwd.parse_users(data), passwd.parse_groups(data)
    assert len(users) <= limits.ACCOUNTS and len(groups) <= limits.ACCOUNTS
    for user in users:
        assert 0 <= user.uid < 2**32 - 1 and 0 <= user.gid < 2**32 - 1
        assert user.home.startswith("/")
        for text in (user.name, user.home):
            assert text and not set(text) & set("\0\n:"), repr(text)
    for group in groups:
        assert 0 <= group.gid < 2**32 - 1
    written = "".join(f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:\n" for user in users)
    again = passwd.parse_users(written.encode("utf-8", "surrogateescape"))
    assert [_plain(user) for user in again] == [_plain(user) for user in users], "reads back differently"
    known = passwd.Accounts(data, data)
    for user in users:
        first = known.user(user.name)
        assert first is not None
        found = known.groups_of(first)
        assert found[0] == first.gid and len(found) == len(set(found)) <= limits.GROUPS_OF_USER
        assert known.user_name(first.uid) is not None
    # More lines after them change nothing.
    more = passwd.Accounts(data + b"\n" + data, data)
    for user in users:
        first, second = known.user(user.name), more.user(user.name)
        assert first is not None and second is not None and _plain(first) == _plain(second)


def fork_server(data: bytes) -> None:
    """Lines of the fork server, whose Python may be the user's: numbers that the agent may pass on, or a refusal."""
    try:
        message = Message(data)
    except ProtocolError:
        return
    assert message.kind in ("warm", "started", "failed", "ended", "unusable")
    for number in (message.launch, message.number):
        assert type(number) is int and 0 <= number < 2**31
    assert isinstance(message.modules, list)


def _plain(user: passwd.User) -> tuple[object, ...]:
    return user.name, user.uid, user.gid, user.home


TARGETS: dict[str, Callable[[bytes], None]] = {
    "agent-accounts": accounts,
    "agent-fork-server": fork_server,
    "agent-json": text,
    "agent-kernel": kernel,
    "agent-messages": messages,
    "agent-wire": wire,
}

_WELCOME = (
    b'{"type":"welcome","protocol":1,"sandboxId":"a","hostname":"h","wallNs":"1","entropy":"AA==",'
    b'"env":{"A":"b"},"limits":{"memoryMax":5},"warm":["x"],"network":{"address":"10.0.0.2"},"authority":null}'
)
SEEDS: dict[str, tuple[bytes, ...]] = {
    "agent-accounts": (
        b"root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/sh\n",
        b"root:x:0:\ndisk:x:6:root,user\n#\n+::\nu:x:4294967295:4294967294::a:",
    ),
    "agent-fork-server": (
        b'{"type":"warm","modules":[{"name":"a","durationMs":1.5,"error":null}]}',
        b'{"type":"started","launch":7,"pid":9}',
        b'{"type":"failed","launch":0,"errno":11}',
        b'{"type":"ended","launch":7,"status":256}',
    ),
    "agent-json": (_WELCOME, b' [1e400,-0.0,"\\ud800",null,true] '),
    "agent-kernel": (
        b"3,1,2,-;Out of memory: Killed process 7 (python3) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:4kB\n",
        b"6,1,2,-;Memory cgroup out of memory: Killed process 8 (a) b) total-vm:1kB, anon-rss:2kB",
    ),
    "agent-messages": (_WELCOME, b'{"op":"exec","argv":["a"],"env":{"A":"b"},"size":{"cols":80,"rows":24},"path":"/"}'),
    "agent-wire": (b"OK 1\nx\n", b"\x01\0\0\0\x02hi\x05\0\0\0\0"),
}


def kept(kind: str, name: str) -> list[bytes]:
    path = INPUTS / kind / f"{name}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [base64.b64decode(line) for line in lines]
