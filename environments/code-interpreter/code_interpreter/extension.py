"""In the Python kernels: how values are shown, variables of one execution, randomness after a clone."""

from __future__ import annotations

import os
import sys

from .limits import DATA_CELLS_MAX

_overridden: dict[str, str | None] = {}


def load_ipython_extension(shell) -> None:
    formatters = shell.display_formatter.formatters
    formatters["e2b/data"] = _formatter(shell, "e2b/data", "pandas", ("DataFrame",), _data)
    formatters["e2b/chart"] = _formatter(
        shell, "e2b/chart", "matplotlib.figure", ("Figure",), _chart
    )
    for kind in (dict, list):
        formatters["application/json"].for_type(kind, _json)
    shell.run_line_magic("colors", "nocolor")
    try:
        _show_pillow_images()
    except ImportError:
        pass


def set_variables(env: dict[str, str], removed: list[str]) -> None:
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(env)


def override(env: dict[str, str]) -> None:
    for name, value in env.items():
        _overridden.setdefault(name, os.environ.get(name))
        os.environ[name] = value


def restore() -> None:
    for name, value in _overridden.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _overridden.clear()


def reseed() -> None:
    """Two clones of a template must not draw the same numbers."""
    import random

    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None


def _formatter(shell, mime: str, module: str, names: tuple[str, ...], show):
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class Formatter(BaseFormatter):
        format_type = Unicode(mime)
        print_method = ObjectName("_repr_e2b_")
        _return_type = dict

        def pop(self, typ, default=None):
            # matplotlib's own support removes the formatters of figures, of every type.
            return default

    formatter = Formatter(parent=shell.display_formatter)
    for name in names:
        # By name: the library is not imported before the user's code does. pandas 3 has another module for its class.
        formatter.for_type_by_name(module, name, show)
        if module == "pandas":
            formatter.for_type_by_name("pandas.core.frame", name, show)
    return formatter


def _data(frame) -> dict | None:
    if frame.size > DATA_CELLS_MAX:
        return None
    columns = frame.to_dict(orient="list")
    return {str(name): [_plain(value) for value in values] for name, values in columns.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        # JSON has neither NaN nor infinity.
        return value if value - value == 0 else None
    if hasattr(value, "isoformat"):
        return None if value != value else value.isoformat()  # type: ignore[attr-defined]
    if hasattr(value, "item"):
        return _plain(value.item())  # type: ignore[attr-defined]
    return None if value != value else str(value)


def _chart(figure) -> dict | None:
    from e2b_charts import chart_figure_to_dict

    from . import boxes

    boxes.install()
    return chart_figure_to_dict(figure)


def _json(value: object) -> object:
    """None if JSON does not have it: the value is then shown as text only."""
    import json

    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None


def _show_pillow_images() -> None:
    from IPython.display import display
    from PIL import Image, ImageShow

    ImageShow.register(ImageShow.IPythonViewer(), order=0)
    save = Image.Image.save

    def save_and_show(self, fp, format=None, **params):
        save(self, fp, format, **params)
        # IPython itself saves to memory.
        if isinstance(fp, (str, bytes, os.PathLike)):
            display(self)

    Image.Image.save = save_and_show
