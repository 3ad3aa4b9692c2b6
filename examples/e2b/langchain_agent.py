"""
A LangChain agent whose tool runs Python in a sandbox, by E2B's client.

    pip install e2b langchain langchain-openai
    python examples/e2b/langchain_agent.py

Sandboxes: docs/e2b.md. Model: OPENAI_API_KEY, or OPENAI_BASE_URL and OPENAI_MODEL of another server.
"""

import os

from e2b import CommandExitException, Sandbox
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

QUESTION = "What is the 100th prime number?"

with Sandbox.create("agent") as sandbox:

    @tool
    def run_python(code: str) -> str:
        """Run a Python program. Returns its output, or its error."""
        sandbox.files.write("main.py", code)
        try:
            return sandbox.commands.run("python3 main.py").stdout
        except CommandExitException as error:
            return error.stderr

    agent = create_agent(
        model=ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5.4")),
        tools=[run_python],
        system_prompt="You answer questions by running Python programs.",
    )
    result = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})
    print(result["messages"][-1].text)
