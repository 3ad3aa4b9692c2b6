"""The agent's pure parts: `python3 -m unittest discover guest/tests`."""

import json
import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import hello, limits, request, wire_json
from neurovisor_agent.framing import BODY, STDIN, FrameDecoder, LineDecoder, ProtocolError, frame


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    points = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(6))})
    return [data[a:b] for a, b in zip(points, points[1:], strict=False)]


class Framing(unittest.TestCase):
    def test_frames_cut_anywhere_come_out_whole(self) -> None:
        rng = random.Random(1)
        for _ in range(300):
            frames = [
                (rng.choice((STDIN, BODY)), rng.randbytes(rng.choice((0, 1, 5, 300))))
                for _ in range(rng.randrange(6))
            ]
            data = b"".join(frame(kind, payload) for kind, payload in frames)
            decoder = FrameDecoder((STDIN, BODY))
            got = [item for piece in cut(data, rng) for item in decoder.receive(piece)]
            self.assertEqual(got, frames)

    def test_hostile_frames_end_in_a_protocol_error(self) -> None:
        for data in (b"\x02\0\0\0\0", frame(STDIN, b"")[:1] + b"\xff\xff\xff\xff", bytes(5)):
            with self.assertRaises(ProtocolError):
                FrameDecoder((STDIN,)).receive(data)
        largest = frame(STDIN, bytes(limits.FRAME_PAYLOAD_BYTES))
        self.assertEqual(len(FrameDecoder((STDIN,)).receive(largest)), 1)

    def test_missing_keeps_what_follows_a_frame_apart(self) -> None:
        data = frame(BODY, b"abc") + b"tail"
        for first in range(1, 9):
            decoder = FrameDecoder((BODY,))
            got = decoder.receive(data[: decoder.missing(data[:first])])
            rest = data[first:] if first < 8 else data[8:]
            size = decoder.missing(rest) if first < 8 else 0
            got += decoder.receive(rest[:size])
            self.assertEqual((got, rest[size:]), ([(BODY, b"abc")], b"tail"))

    def test_line_is_byte_exact_and_bounded(self) -> None:
        decoder = LineDecoder(8)
        self.assertIsNone(decoder.receive(b"OK"))
        self.assertEqual(decoder.receive(b" 1\n\0x\n"), (b"OK 1", b"\0x\n"))
        for data in (b"123456789", b"123456789\n"):
            with self.assertRaises(ProtocolError):
                LineDecoder(8).receive(data)


class WireJson(unittest.TestCase):
    def test_agrees_with_the_json_package(self) -> None:
        values = [None, True, 1, -0.5, "é\udcff\n", [1, [2, {}]], {"a": {"b": [None]}}, "", 10**15]
        for value in values:
            self.assertEqual(json.loads(wire_json.dumps(value)), value)
            self.assertEqual(wire_json.loads(json.dumps(value, indent=1).encode()), value)

    def test_hostile_text_is_a_value_error(self) -> None:
        rng = random.Random(3)
        bad = [
            b"",
            b"{",
            b"[1] 2",
            b"NaN",
            b"Infinity",
            b'"\xff"',
            b"[" * 100_000,
            b"1" * 9999,
            b"{]",
        ]
        bad += [rng.randbytes(20) for _ in range(500)]
        for text in bad:
            try:
                wire_json.loads(text)
            except ValueError:
                continue
            json.loads(text)  # What we take, the package takes too.


class Hello(unittest.TestCase):
    welcome = {
        "type": "welcome",
        "protocol": 1,
        "sandboxId": "a",
        "hostname": "h",
        "wallNs": "1",
        "entropy": "AAAA",
        "later": {},
    }

    def test_takes_a_welcome_and_ignores_unknown_fields(self) -> None:
        got = hello.parse_welcome(json.dumps({**self.welcome, "env": {"A": "b"}}).encode())
        self.assertEqual((got.sandbox_id, got.env, got.warm), ("a", {"A": "b"}, []))

    def test_refuses_with_a_reason(self) -> None:
        cases = {
            "protocol_version": {"protocol": 2},
            "refused_by_host": {"type": "refused", "message": "busy"},
            "invalid_welcome": {"wallNs": "-1"},
        }
        for code, change in cases.items():
            with self.assertRaises(hello.Refused) as caught:
                hello.parse_welcome(json.dumps({**self.welcome, **change}).encode())
            self.assertEqual(caught.exception.code, code)
        for change in ({"env": {"A": 1}}, {"env": {"A": "\0"}}, {"warm": [1]}, {"hostname": ""}):
            with self.assertRaises(hello.Refused):
                hello.parse_welcome(json.dumps({**self.welcome, **change}).encode())

    def test_event_budget_drops_above_its_rate_and_counts(self) -> None:
        budget = hello.EventBudget(3, 10)
        self.assertEqual([budget.take(100.0) for _ in range(5)], [True] * 3 + [False] * 2)
        self.assertEqual(budget.dropped, 2)
        self.assertTrue(budget.take(100.11))
        self.assertFalse(budget.take(100.12))


class Request(unittest.TestCase):
    def test_wrong_fields_are_named(self) -> None:
        fields = request.Request(
            {"a": 1, "b": "x\0", "c": [1], "d": {"A=": "b"}, "e": True, "f": {"cols": 0}}
        )
        calls = {
            "a": lambda: fields.text("a"),
            "b": lambda: fields.text("b"),
            "c": lambda: fields.texts("c"),
            "d": lambda: fields.env("d"),
            "e": lambda: fields.number("e", 0, 0, 9),
            "cols": lambda: fields.size("f"),
            "missing": lambda: fields.text("missing"),
        }
        for name, call in calls.items():
            with self.assertRaisesRegex(request.RequestError, name):
                call()

    def test_errnos_become_codes(self) -> None:
        import errno

        self.assertEqual(request.from_errno(errno.ENOSPC, "w").code, "disk_full")
        self.assertEqual(request.from_errno(errno.EIO, "w").code, "guest_failed")
        self.assertIn("EACCES", str(request.from_errno(errno.EACCES, "w")))


if __name__ == "__main__":
    unittest.main()
