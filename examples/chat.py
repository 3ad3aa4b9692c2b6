"""A streamed chat with the host's model.

    neurovisor run examples/chat.py [-- QUESTION…]

Each argument is one turn; the model also sees the previous turns.
"""

import os
import sys
import time

from openai import OpenAI

TURNS = ["Hello! Who are you?", "What is the capital of France?", "And of Italy?"]


def main() -> None:
    client = OpenAI()
    model = os.environ.get("NEUROVISOR_MODEL") or client.models.list().data[0].id
    messages = [{"role": "system", "content": "You are a helpful assistant. Your answers are short."}]
    for turn in sys.argv[1:] or TURNS:
        messages.append({"role": "user", "content": turn})
        print(f"user      {turn}\n{model[:8]:<9}", end=" ", flush=True)
        answer, first, tokens = "", None, 0
        started = time.monotonic()
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=0,
            max_tokens=80,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first or time.monotonic()
                    answer += choice.delta.content
                    print(choice.delta.content, end="", flush=True)
        messages.append({"role": "assistant", "content": answer})
        ended = time.monotonic()
        first = first or ended
        print(f"\n          {tokens} tokens, first after {first - started:.2f} s, all after {ended - started:.2f} s\n")


if __name__ == "__main__":
    main()
