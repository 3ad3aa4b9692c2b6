"""First calls into modules whose first call is slow, made once in the fork server while a template is built.

Importing is not enough: clients build classes and regular expressions, and import lazily, at the first
call. The host serves a canned model meanwhile (protocol section 3, `rehearse`). No connection may stay
open: forks and clones would share it, so the canned model closes each one.
"""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _langchain_openai() -> None:
    from langchain_openai import ChatOpenAI  # pyright: ignore[reportMissingImports]

    # An unusual timeout: LangChain shares the HTTP client between models of equal settings, and a script's
    # client must be made under the script's environment.
    model = ChatOpenAI(model="rehearsal", timeout=20, max_retries=0)
    model.invoke("rehearsal")
    for _chunk in model.stream("rehearsal"):
        pass
    _forget_environment("langsmith")


def _forget_environment(package: str) -> None:
    """Clears the package's function caches, which may hold values of environment variables."""
    import functools

    for found in gc.get_objects():
        # Not `isinstance`: it asks proxies for their class, and those of the package `openai` import half of it then.
        if type(found) is functools._lru_cache_wrapper:  # type: ignore[attr-defined]
            module = getattr(found, "__module__", None) or ""
            if module == package or module.startswith(f"{package}."):
                found.cache_clear()


def _numpy() -> None:
    import numpy  # pyright: ignore[reportMissingImports]

    numpy.random.default_rng().random(4)
    numpy.arange(4.0) @ numpy.arange(4.0)


_REHEARSALS: "dict[str, Callable[[], None]]" = {
    "langchain_openai": _langchain_openai,
    "numpy": _numpy,
}


def rehearse(module: str) -> None:
    """Makes the module's first call, if there is one for it. Raises whatever the module raises."""
    run = _REHEARSALS.get(module)
    if run is not None:
        run()
