"""Names of languages, and code that sets variables in their kernels."""

from __future__ import annotations

import json
import shlex

ALIASES = {"js": "javascript", "ts": "typescript", "py": "python", "sh": "bash"}
# The kernel of each. Deno takes both of its languages.
KERNELS = {
    "python": "python3",
    "javascript": "javascript",
    "typescript": "javascript",
    "bash": "bash",
}
# Deno's kernel says that it is idle before it has sent all output. What this code sends comes after that.
BARRIER = "neurovisor/barrier"
_DENO_BARRIER = (
    'await Deno.jupyter.broadcast("display_data", '
    f'{{data: {{"{BARRIER}": ""}}, metadata: {{}}, transient: {{}}}});'
)
BARRIERS = {"javascript": _DENO_BARRIER, "typescript": _DENO_BARRIER}
_HELPER = "__import__('code_interpreter.extension', fromlist=['extension'])"


class UnknownLanguage(Exception):
    """Its text is for the client."""


def canonical(language: str | None) -> str:
    """Raises UnknownLanguage."""
    name = (language or "python").strip().lower()
    name = ALIASES.get(name, name)
    if name not in KERNELS:
        known = ", ".join(sorted(KERNELS))
        raise UnknownLanguage(
            f"Language {name[:64]!r} is not supported: this environment has {known}"
        )
    return name


def set_code(language: str, env: dict[str, str], removed: list[str]) -> str:
    """Code that gives the process these variables."""
    if language == "python":
        return f"{_HELPER}.set_variables({_ascii(env)}, {_ascii(removed)})"
    if language == "bash":
        lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
        return "\n".join([*lines, *(f"unset {name}" for name in removed)])
    lines = [f"Deno.env.set({json.dumps(name)}, {json.dumps(env[name])});" for name in env]
    lines += [f"Deno.env.delete({json.dumps(name)});" for name in removed]
    return _statement("".join(lines))


def reseed_code(language: str) -> str:
    """Code that seeds generators anew, which two clones would share; empty: there are none."""
    if language == "python":
        return f"{_HELPER}.reseed()"
    # V8 can't be seeded anew; crypto.getRandomValues asks the system.
    return "RANDOM=$(od -An -N2 -tu2 /dev/urandom)" if language == "bash" else ""


def override_code(language: str, env: dict[str, str]) -> str:
    """Like `set_code`, for one execution: `restore_code` undoes it."""
    if language == "python":
        return f"{_HELPER}.override({_ascii(env)})"
    if language == "bash":
        return "\n".join(
            f'[ -z "${{{name}+x}}" ] || __ci_{name}="${name}"; export {name}={shlex.quote(value)}'
            for name, value in env.items()
        )
    values = json.dumps(env)
    return _statement(
        f"const e={values};const o={{}};for(const k in e){{o[k]=Deno.env.get(k);Deno.env.set(k,e[k]);}}"
        'globalThis[Symbol.for("ci.env")]=o;'
    )


def restore_code(language: str, env: dict[str, str]) -> str:
    if language == "python":
        return f"{_HELPER}.restore()"
    if language == "bash":
        return "\n".join(
            f'if [ -n "${{__ci_{name}+x}}" ]; then export {name}="$__ci_{name}"; unset __ci_{name}; '
            f"else unset {name}; fi"
            for name in env
        )
    return _statement(
        'const o=globalThis[Symbol.for("ci.env")]||{};for(const k in o)'
        "{if(o[k]===undefined)Deno.env.delete(k);else Deno.env.set(k,o[k]);}"
    )


def _statement(body: str) -> str:
    return f"(() => {{{body}}})();"


def _ascii(value: object) -> str:
    return ascii(value)
