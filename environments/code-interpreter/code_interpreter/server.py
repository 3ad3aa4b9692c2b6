"""Routes of the code interpreter, and their answers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from . import languages, limits, messages
from .contexts import Context, Contexts, Refused
from .identity import Identity

# In the template's memory, so that the first execution does not import them.
_WARM = """
try:
    import numpy, pandas, matplotlib.pyplot, e2b_charts
except ImportError:
    pass
del numpy, pandas, matplotlib, e2b_charts
"""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def serve(port: int, environ: str, machine_id: str, warm: list[str]) -> None:
    home = os.path.expanduser("~")
    contexts = Contexts(Identity(environ, machine_id), home)
    for language in warm:
        context = await contexts.default(language)
        if context.language == "python":
            await context.warm(_WARM)
    with_contexts = {"contexts": contexts}
    app = Application(
        [
            (r"/health", Health),
            (r"/execute", Execute, with_contexts),
            (r"/contexts", All, with_contexts),
            (r"/contexts/([^/]+)", One, with_contexts),
            (r"/contexts/([^/]+)/restart", Restart, with_contexts),
        ],
        log_function=lambda _handler: None,
    )
    # Only loopback: the way from outside leads through the host, which asks for a token.
    sockets = bind_sockets(port, "127.0.0.1")
    server = HTTPServer(app, max_buffer_size=limits.REQUEST_BYTES_MAX)
    server.add_sockets(sockets)
    print(f"listening on {sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.stop()
    await contexts.close()


class Handler(RequestHandler):
    def initialize(self, contexts: Contexts | None = None) -> None:
        if contexts is not None:
            self.contexts = contexts

    def fields(self, **kinds: type) -> list[Any]:
        """The body's fields in the order of `kinds`; None: absent. Raises Refused."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise Refused(400, "the body is not a JSON object")
        values = []
        for name, kind in kinds.items():
            value = body.get(name)
            if value is not None and not isinstance(value, kind):
                raise Refused(400, f"{name} is not a {kind.__name__}")
            values.append(value)
        return values

    def answer(self, status: int, text: str) -> None:
        self.set_status(status)
        self.set_header("content-type", "text/plain; charset=utf-8")
        self.finish(text)

    def done(self) -> None:
        # No body: clients do not read it, and an unread one holds their connection.
        self.set_status(204)
        self.finish()

    def json(self, value: object) -> None:
        self.set_header("content-type", "application/json")
        self.finish(json.dumps(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, languages.UnknownLanguage):
            self.answer(400, str(error))
        elif isinstance(error, Refused):
            self.answer(error.status, str(error))
        else:
            self.answer(status_code, self._reason)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, (Refused, languages.UnknownLanguage, StreamClosedError)):
            super().log_exception(typ, value, tb)


class Health(Handler):
    def get(self) -> None:
        self.answer(200, "OK")


class All(Handler):
    def get(self) -> None:
        self.json(self.contexts.list())

    async def post(self) -> None:
        language, cwd = self.fields(language=str, cwd=str)
        self.json((await self.contexts.create(language, cwd)).describe())


class One(Handler):
    async def delete(self, id: str) -> None:
        await self.contexts.remove(id)
        self.done()


class Restart(Handler):
    async def post(self, id: str) -> None:
        await self.contexts.get(id).restart()
        self.done()


class Execute(Handler):
    _is_gone = False
    _last = 0.0

    def on_connection_close(self) -> None:
        self._is_gone = True

    async def post(self) -> None:
        code, id, language, env = self.fields(
            code=str, context_id=str, language=str, env_vars=dict
        )
        if code is None:
            raise Refused(400, "code is missing")
        if id is not None and language is not None:
            raise Refused(400, "context_id and language exclude each other")
        context = await self._context(id, language)
        self._last = time.monotonic()
        self.set_header("content-type", "application/x-ndjson")
        await context.execute(code, _variables(env), self._send)
        if not self._is_gone:
            self.finish(messages.encode({"type": "end_of_execution"}))

    async def _context(self, id: str | None, language: str | None) -> Context:
        return await self.contexts.default(language) if id is None else self.contexts.get(id)

    async def _send(self, line: messages.Line) -> bool:
        """False: the client is gone. A keepalive is sent only after silence."""
        if self._is_gone:
            return False
        if line["type"] == "keepalive" and (
            time.monotonic() < self._last + limits.KEEPALIVE_SECONDS
        ):
            return True
        self._last = time.monotonic()
        try:
            self.write(messages.encode(line))
            await self.flush()
        except StreamClosedError:
            self._is_gone = True
        return not self._is_gone


def _variables(env: dict[str, object] | None) -> dict[str, str]:
    """Raises Refused."""
    for name, value in (env or {}).items():
        if _VARIABLE.fullmatch(name) is None:
            raise Refused(400, f"invalid variable name {name[:64]!r}: use letters, digits and _")
        if not isinstance(value, str) or "\0" in value:
            raise Refused(400, f"variable {name[:64]}: its value is not text")
    return dict(env or {})  # type: ignore[arg-type]
