"""The life of one program, in one table. An illegal pair is refused and changes nothing.

A start is known once two messages have come, in any order: the pid, from the process that forks, and the
end of the status pipe, which is silent when the program runs. A short program may exit before the second.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    State = Literal[
        "new", "starting", "forked", "executed", "exited_early", "running", "ended", "draining", "complete", "refused"
    ]
    Event = Literal["start", "forked", "executed", "exited", "drain", "held", "finish", "refuse"]

TRANSITIONS: "dict[State, dict[Event, State]]" = {
    # Nothing is open yet.
    "new": {"start": "starting"},
    # Neither the pid nor the outcome of the start is known.
    "starting": {"forked": "forked", "executed": "executed", "refuse": "refused"},
    # The pid is known.
    "forked": {"executed": "running", "exited": "exited_early", "refuse": "refused"},
    # The program runs; its pid is not known yet.
    "executed": {"forked": "running", "refuse": "refused"},
    # The child has exited, as a program or before it became one.
    "exited_early": {"executed": "ended", "refuse": "refused"},
    # The program runs, and the host knows its pid.
    "running": {"exited": "ended"},
    # The program has exited; its output is open, or held.
    "ended": {"drain": "draining", "finish": "complete"},
    # The grace period of other processes that keep its output open.
    "draining": {"held": "ended", "finish": "complete"},
    # The host has the exit, or an `attach` can get it; everything is released.
    "complete": {},
    # The program did not start; everything is released. Late messages about its child may still come.
    "refused": {"forked": "refused", "exited": "refused", "refuse": "refused"},
}


class IllegalTransition(Exception):
    """An event that the state does not allow: a bug in the agent."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(f'"{event}" is not possible while {state}')
        self.state = state
        self.event = event


def transition(state: "State", event: "Event") -> "State":
    """The state that follows. Raises IllegalTransition."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise IllegalTransition(state, event)
    return following
