"""An agent that speaks Anthropic's Messages, to whatever model the host has.

    neurovisor run --with anthropic examples/dialects/messages_agent.py [-- TASK]

ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY are set in the sandbox. The first step must be a call of the tool, so that
small models do not guess.
"""

import os
import sys

from anthropic import Anthropic

TASK = "Multiply 12 by 7."
RULES = "Use the result of the tool and answer in one short sentence."
MODEL = os.environ["NEUROVISOR_MODEL"]
TOOL = {
    "name": "multiply",
    "description": "Multiply two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
}


def main() -> None:
    client = Anthropic()
    messages: list = [{"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else TASK}]
    reply = client.messages.create(
        model=MODEL, max_tokens=200, messages=messages, tools=[TOOL], tool_choice={"type": "any"}
    )
    results = []
    for block in reply.content:
        if block.type == "tool_use":
            result = f"{block.input['a'] * block.input['b']:g}"
            print(f"tool    multiply({block.input['a']:g}, {block.input['b']:g}) = {result}")
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": result})
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    print("answer  ", end="")
    with client.messages.stream(
        model=MODEL,
        max_tokens=200,
        system=RULES,
        messages=messages,
        tools=[TOOL],
        tool_choice={"type": "none"},  # small models would call again
    ) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
