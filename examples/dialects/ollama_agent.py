"""An agent that speaks Ollama's API, to whatever model the host has.

    neurovisor run --with ollama examples/dialects/ollama_agent.py [-- TASK]

OLLAMA_HOST is set in the sandbox. The client makes the tool's description from the function.
"""

import os
import sys

from ollama import chat

TASK = "Multiply 12 by 7."
RULES = "Use the result of the tool and answer in one short sentence."
MODEL = os.environ["NEUROVISOR_MODEL"]


def multiply(a: float, b: float) -> float:
    """Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a * b


def main() -> None:
    messages: list = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else TASK},
    ]
    reply = chat(MODEL, messages, tools=[multiply], options={"num_predict": 200})
    messages.append(reply.message)
    for call in reply.message.tool_calls or []:
        result = f"{multiply(**call.function.arguments):g}"
        shown = ", ".join(f"{value:g}" for value in call.function.arguments.values())
        print(f"tool    multiply({shown}) = {result}")
        messages.append({"role": "tool", "content": result, "tool_name": call.function.name})
    print("answer  ", end="")
    for part in chat(MODEL, messages, stream=True, options={"num_predict": 200}):
        print(part.message.content, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
