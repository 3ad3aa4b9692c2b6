"""
An agent of OpenAI's Agents SDK that works in a sandbox, by the SDK's own client for E2B.

    pip install 'openai-agents[e2b]'
    python examples/e2b/openai_agents.py

Sandboxes: docs/e2b.md. Model: OPENAI_API_KEY, or OPENAI_BASE_URL and OPENAI_MODEL of another server.
"""

import asyncio
import os

from agents import Runner
from agents.extensions.sandbox import E2BSandboxClient, E2BSandboxClientOptions, E2BSandboxType
from agents.run import RunConfig
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.entries import File

WORKSPACE = Manifest(
    entries={
        "README.md": File(content=b"# Orders\n\nOne line for each order: item, amount.\n"),
        "orders.csv": File(content=b"apples,120\npears,80\napples,22\n"),
    }
)


async def main() -> None:
    agent = SandboxAgent(
        name="Clerk",
        model=os.environ.get("OPENAI_MODEL", "gpt-5.4"),
        instructions="Answer from the files of the workspace. Inspect them first.",
        default_manifest=WORKSPACE,
    )
    options = E2BSandboxClientOptions(
        sandbox_type=E2BSandboxType.E2B, template="agent", timeout=900
    )
    run_config = RunConfig(sandbox=SandboxRunConfig(client=E2BSandboxClient(), options=options))
    result = await Runner.run(agent, "How many apples were ordered?", run_config=run_config)
    print(result.final_output)


asyncio.run(main())
