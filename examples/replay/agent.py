"""An agent whose answers come from a cassette: it is tested without a model.

    neurovisor run --replay examples/replay/agent.cassette.json examples/replay/agent.py   # in CI
    neurovisor run --record examples/replay/agent.cassette.json examples/replay/agent.py   # with a model, after a change

A test in TypeScript: docs/replay.md, "In a test".

The model picks a tool, the tool runs here, and the model answers with its result.
"""

import json
import os
import urllib.request

TOOL = {
    "type": "function",
    "function": {
        "name": "count_words",
        "description": "Count the words of a text.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    },
}
MODEL = os.environ.get("NEUROVISOR_MODEL", "default")


def ask(messages: list) -> dict:
    body = {"model": MODEL, "messages": messages, "tools": [TOOL], "temperature": 0}
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["message"]


def main() -> None:
    task = "How many words does 'the quick brown fox' have? Use the tool."
    messages: list = [{"role": "user", "content": task}]
    reply = ask(messages)
    messages.append(reply)
    for call in reply.get("tool_calls") or []:
        text = json.loads(call["function"]["arguments"])["text"]
        result = str(len(text.split()))
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        reply = ask(messages)
    print(reply["content"])


if __name__ == "__main__":
    main()
