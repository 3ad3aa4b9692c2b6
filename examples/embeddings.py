"""Semantic search: the host's model computes vectors, NumPy compares them.

    neurovisor run examples/embeddings.py [-- QUERY…]
"""

import os
import sys

import numpy as np
from openai import OpenAI

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A puppy chases its ball across the garden.",
    "Stock markets fell sharply after the interest rate decision.",
    "The central bank raised its rates by half a percent.",
    "Boil the pasta for nine minutes and add salt to the water.",
    "Whisk the eggs and sugar before you fold in the flour.",
    "The striker scored twice in the final minutes of the match.",
    "She won the tennis tournament in straight sets.",
    "The telescope photographed a galaxy ten billion light years away.",
    "Astronauts repaired the space station's solar panel.",
    "The patient was given antibiotics for the infection.",
    "Doctors recommend thirty minutes of exercise a day.",
]
QUERIES = ["pets and animals", "news about money", "how do I cook something", "sports results", "outer space", "medicine"]
SHOWN = 3


def vectors(client: OpenAI, model: str, texts: list[str]) -> np.ndarray:
    """One row of length 1 per text."""
    answer = client.embeddings.create(model=model, input=texts)
    rows = np.array([item.embedding for item in answer.data], dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    client = OpenAI()
    model = os.environ.get("NEUROVISOR_MODEL") or client.models.list().data[0].id
    queries = sys.argv[1:] or QUERIES
    known = vectors(client, model, SENTENCES)
    # The common part of all sentences does not distinguish them.
    common = known.mean(axis=0)
    asked = vectors(client, model, queries) - common
    known = known - common
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    scores = asked @ known.T
    print(f"{len(SENTENCES)} sentences, {known.shape[1]} numbers each, by {model}\n")
    for query, row in zip(queries, scores, strict=True):
        print(query)
        for index in np.argsort(-row)[:SHOWN]:
            print(f"  {row[index]:6.3f}  {SENTENCES[index]}")
        print()


if __name__ == "__main__":
    main()
