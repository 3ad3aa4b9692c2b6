"""The sandbox that this guest is now.

Server and kernels run since before the template was saved. Each clone has another machine id, so a change of it says that
this is another sandbox, or one that was resumed. The variables of the sandbox come from the host: it runs
`cp /proc/self/environ FILE`, a program that has them, before the first request.
"""

from __future__ import annotations

import os


class Identity:
    """`generation` changes whenever kernels must be told."""

    def __init__(self, environ: str, machine_id: str) -> None:
        self._environ, self._machine_id = environ, machine_id
        self._seen: object = None
        self.generation = 0
        self.env: dict[str, str] = {}
        try:
            os.unlink(environ)
        except OSError:
            pass
        self.refresh()
        self.generation = 0

    def refresh(self) -> None:
        seen = _read(self._machine_id), _read(self._environ)
        if seen == self._seen:
            return
        self._seen = seen
        self.generation += 1
        pairs = (entry.partition("=") for entry in _text(seen[1]).split("\0") if "=" in entry)
        self.env = {name: value for name, _, value in pairs if name.isidentifier()}


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
