"""The agent's pure parts: `python3 -m unittest discover guest/tests`."""

import json
import random
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import (
    hello,
    identity,
    limits,
    monitor,
    network,
    request,
    victims,
    wire_json,
)
from neurovisor_agent.cgroup import Cgroups
from neurovisor_agent.framing import (
    BODY,
    STDERR,
    STDIN,
    STDOUT,
    FrameDecoder,
    LineDecoder,
    ProtocolError,
    frame,
)
from neurovisor_agent.kept_output import KeptOutput
from neurovisor_agent.loop import Loop
from neurovisor_agent.settings import Settings, parse_limits, parse_wall_ns


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    points = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(6))})
    return [data[a:b] for a, b in zip(points, points[1:], strict=False)]


class Framing(unittest.TestCase):
    def test_frames_cut_anywhere_are_decoded_whole(self) -> None:
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

    def test_hostile_frames_raise_a_protocol_error(self) -> None:
        for data in (b"\x02\0\0\0\0", frame(STDIN, b"")[:1] + b"\xff\xff\xff\xff", bytes(5)):
            with self.assertRaises(ProtocolError):
                FrameDecoder((STDIN,)).receive(data)
        largest = frame(STDIN, bytes(limits.FRAME_PAYLOAD_BYTES))
        self.assertEqual(len(FrameDecoder((STDIN,)).receive(largest)), 1)

    def test_missing_separates_a_frame_from_the_bytes_after_it(self) -> None:
        data = frame(BODY, b"abc") + b"tail"
        for first in range(1, 9):
            decoder = FrameDecoder((BODY,))
            got = decoder.receive(data[: decoder.missing(data[:first])])
            rest = data[first:] if first < 8 else data[8:]
            size = decoder.missing(rest) if first < 8 else 0
            got += decoder.receive(rest[:size])
            self.assertEqual((got, rest[size:]), ([(BODY, b"abc")], b"tail"))

    def test_a_line_is_byte_exact_and_bounded(self) -> None:
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
            json.loads(text)  # The package accepts it too.


class Memory(unittest.TestCase):
    killed = (
        "3,812,5120034,-;Memory cgroup out of memory: Killed process 71 (a) b) total-vm:9kB, "
        "anon-rss:200kB, file-rss:20kB, shmem-rss:4kB, UID:1000 pgtables:1kB oom_score_adj:0\n"
    )

    def test_parse_gives_pid_name_and_resident_bytes_of_a_victim(self) -> None:
        self.assertEqual(victims.parse(self.killed), (71, "a) b", 224 * 1024))
        whole = self.killed.replace("Memory cgroup out", "Out")
        self.assertEqual(victims.parse(whole), (71, "a) b", 224 * 1024))

    def test_parse_ignores_lines_that_a_program_wrote_to_the_log(self) -> None:
        self.assertIsNone(victims.parse("11" + self.killed[1:]))

    def test_parse_ignores_other_and_hostile_records(self) -> None:
        rng = random.Random(4)
        for cut in range(len(self.killed) - 60):
            victims.parse(self.killed[:cut])
        for record in ["", ";", "3;", "3,1,1,-;Killed process x (y) total-vm:", "x" * 9000]:
            self.assertIsNone(victims.parse(record))
        for _ in range(500):
            victims.parse(rng.randbytes(60).decode("latin1") + self.killed[rng.randrange(200) :])

    def test_find_gives_a_program_only_its_own_victim(self) -> None:
        found = victims.Victims(Loop(), False)
        found._note(2**22 + 1, "lost", 1)
        found._last[-1].group = "p2"
        self.assertEqual(found.find("/sys/fs/cgroup/user/p2", 5, 0.0, True).name, "lost")
        self.assertIsNone(found.find("/sys/fs/cgroup/user/p3", 5, 0.0, True))
        self.assertIsNone(found.find("/sys/fs/cgroup/user/p2", 5, found._last[-1].at + 1, True))
        found._last[-1].group = None
        self.assertIsNone(found.find("/sys/fs/cgroup/user/p3", 5, 0.0, False))
        self.assertEqual(found.find("/sys/fs/cgroup/user/p3", 5, 0.0, True).name, "lost")
        self.assertEqual(found.find(None, 2**22 + 1, 0.0, False).name, "lost")

    def test_stalls_are_read_from_psi(self) -> None:
        text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=1\nfull avg10=3.00 avg60=0 avg300=0 total=1\n"
        self.assertEqual(monitor.stalls(text), (12.5, 3.0))
        self.assertEqual(monitor.stalls(""), (0.0, 0.0))


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

    def test_a_welcome_is_accepted_and_unknown_fields_are_ignored(self) -> None:
        got = hello.parse_welcome(json.dumps({**self.welcome, "env": {"A": "b"}}).encode())
        self.assertEqual((got.sandbox_id, got.env, got.warm), ("a", {"A": "b"}, []))

    def test_a_bad_welcome_is_refused_with_a_code(self) -> None:
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

    def test_event_budget_drops_events_above_its_rate_and_counts_them(self) -> None:
        budget = hello.EventBudget(3, 10)
        self.assertEqual([budget.take(100.0) for _ in range(5)], [True] * 3 + [False] * 2)
        self.assertEqual(budget.dropped, 2)
        self.assertTrue(budget.take(100.11))
        self.assertFalse(budget.take(100.12))


class Request(unittest.TestCase):
    def test_errors_name_the_wrong_field(self) -> None:
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


class Identity(unittest.TestCase):
    def test_an_overwritten_file_has_only_the_new_content(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/hostname"
            for text in ("template-123456\n", "nv-a\n", "nv-bc\n", "", "x" * 9000):
                identity._write(path, text)
                self.assertEqual(Path(path).read_text(), text)


class KeptOutputTest(unittest.TestCase):
    def test_keeps_the_newest_bytes_of_each_stream_however_they_were_cut(self) -> None:
        rng = random.Random(4)
        for size in (0, 1, limits.KEPT_BYTES, limits.KEPT_BYTES + 1, 3 * limits.KEPT_BYTES):
            data = rng.randbytes(size)
            kept = KeptOutput()
            for piece in cut(data, rng):
                kept.add(STDOUT, piece)
            kept.add(STDERR, b"apart")
            self.assertEqual(kept.ends, {STDOUT: size, STDERR: 5})
            self.assertEqual(kept.begin(STDOUT), max(0, size - limits.KEPT_BYTES))
            self.assertEqual((kept.since(STDERR, 0), kept.since(STDERR, 2), kept.since(STDERR, 5)), (b"apart", b"art", b""))
            for offset in (0, kept.begin(STDOUT), (kept.begin(STDOUT) + size) // 2, size):
                got = kept.since(STDOUT, offset)
                self.assertEqual(got, data[max(offset, kept.begin(STDOUT)) :])
                self.assertLessEqual(len(got), limits.FRAME_PAYLOAD_BYTES)


class Update(unittest.TestCase):
    def test_wall_clock_must_be_decimal_text_in_the_kernels_range(self) -> None:
        for text, value in (("0", 0), ("1795569718000000000", 1795569718000000000)):
            self.assertEqual(parse_wall_ns(request.Request({"wallNs": text})), value)
        self.assertIsNone(parse_wall_ns(request.Request({})))
        for bad in (1, "", "-1", "1.5", "0x1", "\u0661", str(2**63), "9" * 5000, [], True):
            with self.assertRaisesRegex(request.RequestError, "wallNs"):
                parse_wall_ns(request.Request({"wallNs": bad}))

    def test_limits_must_be_positive_integers_and_unknown_ones_are_ignored(self) -> None:
        given = {"pidsMax": 5, "memoryMaxBytes": None, "later": "x"}
        self.assertEqual(parse_limits(request.Request({"limits": given})), {"pidsMax": 5})
        self.assertEqual(parse_limits(request.Request({"limits": {}})), {})
        self.assertIsNone(parse_limits(request.Request({"limits": None})))
        for bad in ([], "x", {"pidsMax": 0}, {"pidsMax": True}, {"outputBytesMax": 1.5}):
            with self.assertRaises(request.RequestError):
                parse_limits(request.Request({"limits": bad}))

    def test_an_update_with_hostile_fields_applies_all_or_nothing(self) -> None:
        rng = random.Random(5)
        values = [None, 1, 0, -1, "1", "x", "\0", [], {}, {"A": "b"}, {"A": 1}, {"pidsMax": 7}, 1e9]
        refused = 0
        for _ in range(2000):
            settings = Settings(Loop(), Cgroups(None), in_vm=False)
            settings.set_env({"WHO": "before"})
            settings.limit({"outputBytesMax": 3})
            before = settings.env, settings.output_max
            fields: dict[str, object] = {
                name: rng.choice(values)
                for name in ("wallNs", "env", "limits")
                if rng.random() < 0.7
            }
            try:
                settings.update(request.Request(fields), lambda _problem: None)
            except request.RequestError:
                refused += 1
                self.assertEqual((settings.env, settings.output_max), before)
            else:
                wanted = fields.get("env")
                self.assertEqual("WHO" in settings.env, wanted is None)
                self.assertEqual(settings.output_max, 3 if fields.get("limits") is None else None)
        self.assertTrue(500 < refused < 1900)

    def test_limits_that_the_kernel_refuses_are_rolled_back(self) -> None:
        class Failing(Cgroups):
            applied: "list[dict[str, int]]" = []

            def limit(self, wanted: dict[str, int], memory_total: int) -> None:
                self.applied.append(wanted)
                if "pidsMax" in wanted:
                    raise OSError(22, "refused")

        cgroups = Failing(None)
        settings = Settings(Loop(), cgroups, in_vm=False)
        settings.limit({"outputBytesMax": 3})
        with self.assertRaises(OSError):
            settings.update(request.Request({"limits": {"pidsMax": 1}, "env": {"A": "b"}}), self.fail)
        self.assertEqual(settings.output_max, 3)
        self.assertEqual(settings.env, {})
        self.assertEqual(cgroups.applied[-1], {"outputBytesMax": 3})


class NetworkTest(unittest.TestCase):
    fields = {
        "mac": "AA:fc:00:00:00:01",
        "address": "10.201.0.2",
        "prefixLength": 30,
        "gateway": "10.201.0.1",
        "gatewayMac": "aa:fd:00:00:00:01",
        "mtu": 1400,
    }

    def test_valid_fields_are_parsed(self) -> None:
        wanted = network.NetworkSettings(self.fields)
        self.assertEqual(wanted.mac, "aa:fc:00:00:00:01")
        self.assertEqual(wanted.address, bytes([10, 201, 0, 2]))
        self.assertEqual(wanted.gateway_mac, bytes.fromhex("aafd00000001"))
        self.assertEqual((wanted.prefix, wanted.mtu), (30, 1400))

    def test_errors_name_the_wrong_field_of_network(self) -> None:
        wrong = {
            "mac": ["aa:fc", "zz:fc:00:00:00:01", 5, None],
            "address": ["10.201.0.256", "", "::1"],
            "gateway": ["host"],
            "gatewayMac": ["aa:fd:00:00:00:0"],
            "prefixLength": [33, 0, "30", None],
            "mtu": [0, 70_000],
        }
        for field, values in wrong.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    with self.assertRaisesRegex(request.RequestError, field):
                        network.NetworkSettings({**self.fields, field: value})

    def test_structures_have_the_sizes_that_the_kernel_reads(self) -> None:
        address = bytes([10, 0, 0, 1])
        self.assertEqual(len(network._sockaddr(address)), 16)
        self.assertEqual(len(network._ifreq("eth0", b"")), 40)
        route = network._default_route(address)
        self.assertEqual(len(route), 120)
        self.assertEqual(route[28:32], address)
        self.assertEqual(route[56], 0x1 | 0x2)

    def test_a_change_before_the_card_appears_ends_the_previous_one(self) -> None:
        # Never this machine's own cards: run as root, the test would configure the only one.
        cards = tempfile.TemporaryDirectory()
        self.addCleanup(cards.cleanup)
        self.enterContext(mock.patch.object(network, "_CARDS", cards.name))
        self.enterContext(mock.patch.object(network, "RESOLV_CONF", f"{cards.name}/resolv.conf"))
        card = network.Network(Loop())
        told: list[str | None] = []
        card._await(network.NetworkSettings({**self.fields, "mac": "02:ff:ff:ff:ff:fe"}), told.append, 1)
        self.assertEqual(told, [])
        card.apply(network.NetworkSettings({**self.fields, "mac": "02:ff:ff:ff:ff:fd"}), told.append)
        self.assertEqual(len(told), 1)
        self.assertIn("another change", str(told[0]))


if __name__ == "__main__":
    unittest.main()
