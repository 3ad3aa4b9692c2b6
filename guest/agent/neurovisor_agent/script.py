"""Runs a Python script so that the script can't tell this from `python3 FILE`: in a fork of the fork server, or alone.

What differs: `/proc/self/cmdline` is that of interpreter.py; of the PYTHON* variables only PYTHONPATH and
PYTHONUNBUFFERED are read; the scripts of one fork server share a PYTHONHASHSEED.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import builtins
import os
import sys

from . import spawn
from .spawn import Launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType


class _Flags(tuple):
    """The `sys.flags` of a plain `python3`: the agent's own -I -S must not reach child interpreters."""

    __slots__ = ()
    isolated = no_site = no_user_site = ignore_environment = 0
    safe_path = False

    def __getattr__(self, name: str) -> object:
        return getattr(_own_flags, name)

    @classmethod
    def plain(cls) -> "_Flags":
        names = _own_flags.__match_args__
        return cls(vars(cls).get(name, getattr(_own_flags, name)) for name in names)


_own_flags = sys.flags


def prepare(*, has_user: bool = True) -> None:
    """Makes this interpreter a plain one: it finds site-packages, and not the agent's own files.

    `has_user`: with those in the home, and their code runs now. The fork server has no user: its scripts add theirs.
    """
    agent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [path for path in sys.path if path != agent]
    if sys.flags.no_site:
        # Before the flags change, or the import would run all of it already.
        import site

        sys.flags = _Flags.plain()  # type: ignore[assignment]
        if not has_user:
            site.ENABLE_USER_SITE = False
        site.main()
        site.ENABLE_USER_SITE = True


def extend_path(python_path: str | None) -> None:
    for path in reversed((python_path or "").split(":")):
        if path and path not in sys.path:
            sys.path.insert(0, path)


def add_user_site(home: str) -> None:
    """Finds what `pip install` put into the home, where `site` would have it. The fork server had another home."""
    import site

    site.USER_BASE = site.USER_SITE = None
    site.getusersitepackages()
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path = f"{home}/.local/lib/{python}/site-packages"
    if path in sys.path or not os.path.isdir(path):
        return
    count = len(sys.path)
    site.addsitedir(path)
    added = sys.path[count:]
    del sys.path[count:]
    at = next((n for n, one in enumerate(sys.path) if one.endswith("-packages")), count)
    sys.path[at:at] = added


def serve_one(launch_fd: int, status_fd: int) -> None:
    """Runs the script of `launch_fd`, without a fork server; never returns. A failure is reported as in spawn.py."""
    try:
        os.set_inheritable(status_fd, False)
        launch = Launch.read(launch_fd)
        os.close(launch_fd)
        run(launch, status_fd)
    except BaseException as error:
        spawn.report(status_fd, "exec", error)
    finally:
        os._exit(spawn.FAILED)


def run(launch: Launch, status_fd: int) -> None:
    """Runs the script and exits with its status. Raises OSError if the script can't be started."""
    assert launch.script is not None
    prepare()
    os.environ.clear()
    os.environ.update(launch.env)
    _set_streams(unbuffered=bool(launch.env.get("PYTHONUNBUFFERED")))
    _forget()
    add_user_site(launch.env.get("HOME", ""))
    extend_path(launch.env.get("PYTHONPATH"))
    code, main = _load(launch.script, launch.argv)
    os.close(status_fd)
    status = 1
    try:
        status = _execute(code, main)
    finally:
        os._exit(status)


def _set_streams(unbuffered: bool) -> None:
    """Buffers by line, so that a script's output streams even into a pipe."""
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=unbuffered)  # type: ignore[union-attr]
    with open("/proc/self/comm", "w") as file:
        file.write("python3")


def _forget() -> None:
    """Drops state of the fork server's modules that a script must not inherit: random states, host names.

    `random` reseeds itself after a fork (CPython, Lib/random.py). A fork server warmed in a template has
    the template's host name in the caches of `platform`.
    """
    platform = sys.modules.get("platform")
    if platform is not None:
        platform._uname_cache = None  # type: ignore[attr-defined]
        platform._platform_cache.clear()
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        uuid._node = uuid._last_timestamp = None  # type: ignore[attr-defined]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _load(script: dict[str, str], argv: list[str]) -> "tuple[CodeType | BaseException, ModuleType]":
    """The compiled script, or the exception that compiling raised, to be printed as Python prints it."""
    main = type(sys)("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    path = script.get("path")
    sys.argv[:] = [path if path is not None else "-c", *argv]
    sys.orig_argv[:] = [
        sys.executable,
        *(sys.argv if path is not None else ["-c", script["code"], *argv]),
    ]
    if path is None:
        sys.path.insert(0, "")
        return _compiled(script["code"].encode("utf-8", "surrogateescape"), "<string>"), main
    from _frozen_importlib_external import SourceFileLoader

    main.__file__ = path
    main.__dict__["__cached__"] = None
    main.__loader__ = SourceFileLoader("__main__", path)
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    with open(path, "rb") as file:
        return _compiled(file.read(), path), main


def _compiled(source: bytes, name: str) -> "CodeType | BaseException":
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error.with_traceback(None)


def _execute(code: "CodeType | BaseException", main: "ModuleType") -> int:
    interrupted = False
    status = 0
    try:
        if isinstance(code, BaseException):
            raise code
        exec(code, main.__dict__)
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:
        # Hides this module's own frame from the traceback.
        trace = error.__traceback__
        error.__traceback__ = trace.tb_next if trace is not None else None
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
        interrupted = isinstance(error, KeyboardInterrupt)
    status = _finish(main) or status
    if interrupted:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    return status


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _finish(main: "ModuleType") -> int:
    """Ends like an interpreter: waits for threads, runs atexit and finalizers of `__main__`, flushes."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
        for name in [name for name in main.__dict__ if not name.startswith("__")]:
            main.__dict__[name] = None
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    status = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            status = 120  # CPython's exit status when flushing stdout at the end fails.
    return status
