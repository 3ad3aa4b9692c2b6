"""An agent that works through a list of tasks with several tools, each task in a bounded loop.

    neurovisor run examples/tool_loop.py [-- TASK…]

For each task the model picks a tool and its arguments, the tool runs inside the sandbox, and its result goes back to
the model, until the model answers with text or has no steps left. An error in a tool goes to the model instead of
ending the agent.
"""

import json
import os
import sys

import numpy as np
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI

TASKS = ["Multiply 12 by 7.", "Estimate pi with 1000000 random points.", "How many seconds are 3 hours?"]
RULES = "You are a helpful assistant. Use the result of the tool and answer in one short sentence."
MAX_STEPS = 4


@tool
def multiply(a: float, b: float) -> str:
    """Multiply two numbers."""
    return json.dumps({"product": float(np.multiply(a, b))})


@tool
def seconds(hours: float) -> str:
    """Convert hours to seconds."""
    if hours < 0:
        raise ValueError("hours must not be negative")
    return json.dumps({"seconds": float(np.multiply(hours, 3_600))})


@tool
def estimate_pi(points: int) -> str:
    """Estimate pi with random points."""
    x, y = np.random.default_rng(seed=1).random((2, min(max(points, 1), 10_000_000)))
    return json.dumps({"pi": round(4 * float(np.mean(x * x + y * y <= 1)), 4)})


TOOLS = {one.name: one for one in (multiply, seconds, estimate_pi)}


def run_tool(call: dict) -> str:
    try:
        return TOOLS[call["name"]].invoke(call["args"])
    except Exception as error:  # noqa: BLE001 - the model gets every error
        return f"error: {error}"


def solve(chat: ChatOpenAI, task: str) -> str:
    messages = [SystemMessage(RULES), HumanMessage(task)]
    results: dict[str, str] = {}
    choice = "required"  # the first step must be a call, so that small models do not guess
    for step in range(1, MAX_STEPS + 1):
        if step == MAX_STEPS:
            choice = "none"  # the last step must be the answer
        reply: AIMessage = chat.bind_tools(list(TOOLS.values()), tool_choice=choice).invoke(messages)
        calls = {f"{call['name']}({json.dumps(call['args'])})": call for call in reply.tool_calls}
        if not calls:
            return reply.text
        if calls.keys() <= results.keys():
            choice = "none"  # it repeats known calls: make it answer
            continue
        choice = "auto"
        messages.append(reply)
        for shown, call in calls.items():
            results[shown] = run_tool(call)
            messages.append(ToolMessage(results[shown], tool_call_id=call["id"]))
            print(f"  step {step}  {shown} = {results[shown]}")
    return "none: no steps left"


def main() -> None:
    model = os.environ.get("NEUROVISOR_MODEL") or OpenAI().models.list().data[0].id
    chat = ChatOpenAI(model=model, temperature=0, max_tokens=100)
    for task in sys.argv[1:] or TASKS:
        print(task)
        print(f"  answer  {solve(chat, task)}\n")


if __name__ == "__main__":
    main()
