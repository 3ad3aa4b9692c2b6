"""Contexts: each has a kernel, and runs one execution at a time."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from queue import Empty

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from . import languages, limits, messages
from .identity import Identity

_SPECS = KernelSpecManager(
    kernel_dirs=[os.path.join(os.path.dirname(__file__), "kernels")], ensure_native_kernel=False
)
# Returns False if the client has disconnected.
Send = Callable[[messages.Line], Awaitable[bool]]


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Context:
    def __init__(self, language: str, cwd: str, identity: Identity) -> None:
        self.id = str(uuid.uuid4())
        self.language, self.cwd = language, cwd
        self._identity = identity
        self._generation = 0
        self._announced: set[str] = set()
        self._turn = asyncio.Lock()
        # Why the running execution must end. Set by whoever waits for its turn.
        self._stop: str | None = None
        self._is_over = False
        self._is_started = False

    def describe(self) -> dict[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self) -> None:
        self._identity.refresh()
        self._generation = self._identity.generation
        self._announced = set(self._identity.env)
        env = {**os.environ, **self._identity.env}
        # A manager closes its sockets with its kernel, so each kernel has its own.
        self._manager = AsyncKernelManager(
            kernel_name=languages.KERNELS[self.language], kernel_spec_manager=_SPECS
        )
        await self._manager.start_kernel(cwd=self.cwd, env=env)
        self._client = self._manager.client()
        self._client.start_channels()
        self._is_started = True
        try:
            await self._client.wait_for_ready(timeout=limits.START_SECONDS_MAX)
            await self._wait_for_output()
        except BaseException:
            await self._shut_down()
            raise

    async def _wait_for_output(self) -> None:
        """Waits until output arrives: its channel may be subscribed only after the first answer."""
        until = time.monotonic() + limits.START_SECONDS_MAX
        while time.monotonic() < until:
            self._client.kernel_info()
            try:
                await self._client.get_iopub_msg(timeout=limits.TICK_SECONDS)
                return
            except Empty:
                continue
        raise RuntimeError("the kernel has no output")

    async def restart(self) -> None:
        if not self._is_over:
            self._stop = "the context was restarted"
        async with self._turn:
            # It may have been removed meanwhile, for which it must stay stopped and without a kernel.
            if self._is_over:
                raise self._missing()
            self._stop = None
            await self._restart()

    async def close(self) -> None:
        self._is_over = True
        self._stop = "the context was removed"
        async with self._turn:
            await self._shut_down()

    def _missing(self) -> Refused:
        return Refused(404, f"Context {self.id} not found")

    async def execute(self, code: str, env: dict[str, str], send: Send) -> None:
        """Returns when the kernel is idle again, also if the client has disconnected."""
        async with self._turn:
            if self._is_over:
                raise self._missing()
            if not await send({"type": "keepalive"}):
                return
            if not (self._is_started and await self._manager.is_alive()):
                await self._restart()
            await self._refresh()
            if not self._is_started:
                # It was removed while it refused to stop.
                await send(messages.error("KernelRestarted", self._stop or ""))
                return
            if env:
                await self._run_quietly(languages.override_code(self.language, env))
            is_new = await self._run(code, send)
            if env and not is_new:
                await self._run_quietly(languages.restore_code(self.language, env))

    async def warm(self, code: str) -> None:
        await self._run_quietly(code)

    async def _refresh(self) -> None:
        """Gives a kernel that was started before this sandbox the sandbox's variables and fresh random seeds."""
        self._identity.refresh()
        if self._generation == self._identity.generation:
            return
        env = self._identity.env
        removed = sorted(self._announced - set(env))
        code = languages.set_code(self.language, env, removed)
        await self._run_quietly("\n".join([code, languages.reseed_code(self.language)]).strip())
        self._generation, self._announced = self._identity.generation, set(env)

    async def _run_quietly(self, code: str) -> None:
        async def nobody(_line: messages.Line) -> bool:
            return True

        await self._run(code, nobody, quietly=True)

    async def _run(self, code: str, send: Send, quietly: bool = False) -> bool:
        """Returns True if the kernel was restarted."""
        request = self._client.execute(
            code, silent=quietly, store_history=not quietly, allow_stdin=False, stop_on_error=False
        )
        requests = {request}
        is_wanted, has_reply, is_begun = True, False, False
        deadline: float | None = None
        while True:
            message = await self._next(requests)
            if message is not None and message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle" and len(requests) == 1:
                    barrier = languages.BARRIERS.get(self.language)
                    if barrier is None or quietly:
                        break
                    requests.add(self._client.execute(barrier, silent=True, store_history=False))
                continue
            if message is not None and messages.is_barrier(message):
                break
            if message is not None and message["msg_type"] == "execute_input":
                if is_begun:
                    continue
                is_begun = True
            line = {"type": "keepalive"} if message is None else messages.line_of(message)
            if is_wanted and line is not None:
                is_wanted = await send(line)
            if deadline is None and (not is_wanted or self._stop is not None):
                deadline = time.monotonic() + limits.INTERRUPT_SECONDS_MAX
                await self._manager.interrupt_kernel()
            if message is not None:
                continue
            problem = None
            if not await self._manager.is_alive():
                problem = "the kernel ended; its variables are lost"
            elif deadline is not None and time.monotonic() > deadline:
                problem = self._stop or "the kernel did not stop; its variables are lost"
            elif has_reply:
                # The kernel is idle, but the message that says so was dropped.
                break
            if problem is not None:
                if is_wanted:
                    await send(messages.error("KernelRestarted", problem))
                await self._restart()
                return True
            has_reply = await self._has_reply(request)
        return False

    async def _next(self, requests: set[str]) -> dict | None:
        """Returns the next message about one of the requests, or None if none came within a tick."""
        until = time.monotonic() + limits.TICK_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                message = await self._client.get_iopub_msg(timeout=left)
            except Empty:
                break
            if message["parent_header"].get("msg_id") in requests:
                return message
        return None

    async def _has_reply(self, request: str) -> bool:
        while True:
            try:
                reply = await self._client.get_shell_msg(timeout=0)
            except Empty:
                return False
            if reply["parent_header"].get("msg_id") == request:
                return True

    async def _restart(self) -> None:
        await self._shut_down()
        if not self._is_over:
            await self.start()

    async def _shut_down(self) -> None:
        if not self._is_started:
            return
        self._is_started = False
        self._client.stop_channels()
        await self._manager.shutdown_kernel(now=True)


class Contexts:
    """All contexts, oldest first. Each language has a default context, created when it is first used."""

    def __init__(self, identity: Identity, home: str) -> None:
        self._identity, self._home = identity, home
        self._all: dict[str, Context] = {}
        self._defaults: dict[str, asyncio.Task[Context]] = {}
        self._starting = 0

    def list(self) -> list[dict[str, str]]:
        return [context.describe() for context in self._all.values()]

    def get(self, id: str) -> Context:
        context = self._all.get(id)
        if context is None:
            raise Refused(404, f"Context {id[:128]} not found")
        return context

    async def create(self, language: str | None, cwd: str | None) -> Context:
        name = languages.canonical(language)
        path = os.path.join(self._home, os.path.expanduser(cwd or self._home))
        if not os.path.isdir(path):
            raise Refused(400, f"cwd {path[:4096]!r} does not exist")
        if len(self._all) + self._starting >= limits.CONTEXTS_MAX:
            raise Refused(
                400, f"there are {limits.CONTEXTS_MAX} contexts already: remove one first"
            )
        context = Context(name, path, self._identity)
        self._starting += 1
        try:
            await context.start()
        finally:
            self._starting -= 1
        self._all[context.id] = context
        return context

    async def default(self, language: str | None) -> Context:
        name = languages.canonical(language)
        task = self._defaults.get(name)
        if task is None or (task.done() and (task.exception() or task.result().id not in self._all)):
            task = asyncio.ensure_future(self.create(name, None))
            self._defaults[name] = task
        # Other requests may wait for the same context.
        return await asyncio.shield(task)

    async def remove(self, id: str) -> None:
        context = self.get(id)
        del self._all[id]
        await context.close()

    async def close(self) -> None:
        for id in list(self._all):
            await self.remove(id)
