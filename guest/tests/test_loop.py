"""The agent's event loop, over real sockets."""

import os
import socket
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent.loop import IN, Loop


class Stop(BaseException):
    """Leaves `Loop.run`, which survives every Exception."""


class LoopTest(unittest.TestCase):
    def test_a_new_file_gets_no_events_of_the_old_one_with_its_number(self) -> None:
        loop = Loop()
        pairs = [socket.socketpair() for _ in range(2)]
        quiet, other = socket.socketpair()
        called: list[int] = []

        def first(fd: int, neighbor: int) -> None:
            """Both are ready; the first to be called gives the other's number to a file that is not ready."""
            loop.unwatch(fd)
            loop.unwatch(neighbor)
            os.dup2(quiet.fileno(), neighbor)
            loop.watch(neighbor, IN, lambda events: called.append(events))
            loop.after(0.05, stop)

        def stop() -> None:
            raise Stop

        ends = [pair[0].fileno() for pair in pairs]
        for end, neighbor in (ends, ends[::-1]):
            loop.watch(end, IN, lambda _events, fd=end, by=neighbor: first(fd, by))
        for pair in pairs:
            pair[1].send(b"x")
        with self.assertRaises(Stop):
            loop.run()
        self.assertEqual(called, [])

        # Once it is ready itself, its handler is called.
        other.send(b"x")
        loop.after(0.05, stop)
        with self.assertRaises(Stop):
            loop.run()
        self.assertGreater(len(called), 0)
        for sock in (quiet, other, *(sock for pair in pairs for sock in pair)):
            sock.close()


if __name__ == "__main__":
    unittest.main()
