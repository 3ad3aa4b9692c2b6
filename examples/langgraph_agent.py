# /// script
# dependencies = ["langgraph"]
# ///
"""
An agent as a graph (LangGraph): it asks its model for a number, and again until the answer holds one.

    neurovisor run examples/langgraph_agent.py
"""

import os
import re
from typing import TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    question: str
    answer: str
    tries: int


model = ChatOpenAI(model=os.environ["NEUROVISOR_MODEL"], temperature=0, max_tokens=30)


def ask(state: State) -> dict:
    reply = model.invoke(state["question"])
    return {"answer": str(reply.content), "tries": state["tries"] + 1}


def judge(state: State) -> str:
    has_number = re.search(r"\d", state["answer"]) is not None
    return END if has_number or state["tries"] >= 3 else "ask"


graph = StateGraph(State)
graph.add_node("ask", ask)
graph.add_edge(START, "ask")
graph.add_conditional_edges("ask", judge)
outcome = graph.compile().invoke(
    {"question": "How many legs does a spider have? Answer with a number.", "answer": "", "tries": 0}
)
print(f"after {outcome['tries']} tries: {outcome['answer']}")
