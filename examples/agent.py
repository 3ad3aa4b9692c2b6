"""A LangChain agent in a microVM whose model runs on the host.

    neurovisor run examples/agent.py [-- QUESTION]

The agent asks the model, which must call a tool; the tool computes with NumPy inside the sandbox; the model streams
an answer with the result. The sandbox has no network card, no API key and no certificate: the only way out is the
model's address on the loopback interface, which leads to the host over virtio-vsock.
"""

import json
import os
import platform
import sys
import time

print("importing LangChain and NumPy ...", flush=True)  # takes seconds in software emulation

import numpy as np
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI

QUESTION = "Estimate pi with 1000000 random points."
RULES = "You are a helpful assistant. Use the result of the tool and answer in one short sentence."
MAX_STEPS = 4
MAX_POINTS = 20_000_000  # 320 MB of random numbers


@tool
def estimate_pi(points: int) -> str:
    """Estimate pi by throwing random points into a square."""
    points = min(max(points, 1), MAX_POINTS)
    x, y = np.random.default_rng(seed=1).random((2, points))
    inside = int(np.count_nonzero(x * x + y * y <= 1))
    return json.dumps({"points": points, "pi": round(4 * inside / points, 5)})


@tool
def roll_dice(dice: int, sides: int) -> str:
    """Roll dice and add them up."""
    rolls = np.random.default_rng().integers(1, max(sides, 1), size=min(max(dice, 1), 1_000), endpoint=True)
    return json.dumps({"sum": int(rolls.sum()), "mean": round(float(rolls.mean()), 2)})


def first_model() -> str:
    """The requested model, else the first that the host offers."""
    return os.environ.get("NEUROVISOR_MODEL") or OpenAI().models.list().data[0].id


def show_surroundings(model: str) -> None:
    cards = sorted(os.listdir("/sys/class/net"))
    others = [name for name in cards if name != "lo"]
    print(f"guest    {platform.node()}: Linux {platform.release()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"network  {' '.join(cards)}" + ("" if others else "  (no network card)"))
    print(f"model    {model} at {os.environ.get('OPENAI_BASE_URL', 'the default address')}")
    print()


def main() -> None:
    question = " ".join(sys.argv[1:]) or QUESTION
    model = first_model()
    show_surroundings(model)
    print(f"user     {question}")

    tools = {one.name: one for one in (estimate_pi, roll_dice)}
    chat = ChatOpenAI(model=model, temperature=0, max_tokens=120, stream_usage=True)
    messages = [SystemMessage(RULES), HumanMessage(question)]
    choice = "required"  # the first step must be a call, so that small models do not guess
    results: dict[str, str] = {}
    started = time.monotonic()
    tokens = 0
    for _ in range(MAX_STEPS):
        reply = stream_answer(chat.bind_tools(list(tools.values()), tool_choice=choice), messages)
        tokens += (reply.usage_metadata or {}).get("output_tokens", 0)
        if not reply.tool_calls:
            break
        calls = {f"{call['name']}({json.dumps(call['args'])})": call for call in reply.tool_calls}
        if calls.keys() <= results.keys():
            choice = "none"  # it repeats known calls: make it answer
            continue
        messages.append(reply)
        for shown, call in calls.items():
            results[shown] = tools[call["name"]].invoke(call["args"])
            messages.append(ToolMessage(results[shown], tool_call_id=call["id"]))
            print(f"tool     {shown} = {results[shown]}")
        choice = "auto"
    print(f"\n{tokens} tokens in {time.monotonic() - started:.1f} s")


def stream_answer(chat: Runnable, messages: list[BaseMessage]) -> AIMessageChunk:
    """Prints an answer token by token; returns the whole answer."""
    whole = AIMessageChunk("")
    for chunk in chat.stream(messages):
        if chunk.text:
            print("" if whole.text else "agent    ", chunk.text, sep="", end="", flush=True)
        whole += chunk
    if whole.text:
        print()
    return whole


if __name__ == "__main__":
    main()
