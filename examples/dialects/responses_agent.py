"""An agent that speaks OpenAI's Responses, to whatever model the host has.

    neurovisor run examples/dialects/responses_agent.py [-- TASK]

OPENAI_BASE_URL and OPENAI_API_KEY are set in the sandbox. The first step must be a call of the tool, so that small
models do not guess. The host keeps what was said: the second request names the first by its id and sends the tool's
result alone.
"""

import json
import os
import sys

from openai import OpenAI

TASK = "Multiply 12 by 7."
RULES = "Use the result of the tool and answer in one short sentence."
MODEL = os.environ["NEUROVISOR_MODEL"]
TOOL = {
    "type": "function",
    "name": "multiply",
    "description": "Multiply two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
}


def main() -> None:
    client = OpenAI()
    task = sys.argv[1] if len(sys.argv) > 1 else TASK
    first = client.responses.create(
        model=MODEL, input=task, tools=[TOOL], tool_choice="required", max_output_tokens=200
    )
    results = []
    for item in first.output:
        if item.type == "function_call":
            given = json.loads(item.arguments)
            result = f"{given['a'] * given['b']:g}"
            print(f"tool    multiply({given['a']:g}, {given['b']:g}) = {result}")
            results.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
    print("answer  ", end="")
    with client.responses.stream(
        model=MODEL,
        instructions=RULES,
        previous_response_id=first.id,
        input=results,
        tools=[TOOL],
        tool_choice="none",  # small models would call again
        max_output_tokens=200,
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
