"""The states of a program: the table, what it refuses, and the drawing of it."""

import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from neurovisor_agent import process
from neurovisor_agent.process_state import TRANSITIONS, IllegalTransition, transition

EVENTS = sorted({event for events in TRANSITIONS.values() for event in events})
FINAL = {"complete", "refused"}


class Table(unittest.TestCase):
    def test_every_pair_outside_the_table_is_refused_by_name(self) -> None:
        refused = 0
        for state, events in TRANSITIONS.items():
            for event in EVENTS:
                if event in events:
                    self.assertEqual(transition(state, event), events[event])
                    continue
                refused += 1
                with self.assertRaises(IllegalTransition) as caught:
                    transition(state, event)
                self.assertEqual((caught.exception.state, caught.exception.event), (state, event))
        self.assertEqual(refused, len(TRANSITIONS) * len(EVENTS) - sum(map(len, TRANSITIONS.values())))

    def test_final_states_are_never_left(self) -> None:
        for state in FINAL:
            self.assertLessEqual(set(TRANSITIONS[state].values()), {state})

    def test_every_state_is_reached_and_leads_to_an_end(self) -> None:
        def reached(start: str) -> set[str]:
            found, todo = {start}, [start]
            while todo:
                new = set(TRANSITIONS[todo.pop()].values()) - found
                found |= new
                todo += new
            return found

        self.assertEqual(reached("new"), set(TRANSITIONS))
        for state in TRANSITIONS:
            self.assertTrue(reached(state) & FINAL, state)

    def test_whatever_the_order_of_messages_a_program_runs_once_and_ends_once(self) -> None:
        rng = random.Random(7)
        for _ in range(2000):
            state, seen = "new", []
            for _ in range(12):
                try:
                    following = transition(state, rng.choice(EVENTS))
                except IllegalTransition:
                    continue
                if following != state:
                    seen.append(following)
                state = following
            self.assertEqual(len([name for name in seen if name in FINAL]), int(state in FINAL))
            self.assertLessEqual(seen.count("running"), 1)
            self.assertFalse("refused" in seen and {"running", "ended"} & set(seen))

    def test_the_header_of_process_holds_the_drawing_of_the_table(self) -> None:
        width = max(map(len, TRANSITIONS)) + 2
        lines = [
            f"    {state:<{width}}" + " │ ".join(f"{event} ─► {to}" for event, to in events.items())
            for state, events in TRANSITIONS.items()
        ]
        self.assertIn("\n".join(line.rstrip() for line in lines), process.__doc__ or "")


if __name__ == "__main__":
    unittest.main()
