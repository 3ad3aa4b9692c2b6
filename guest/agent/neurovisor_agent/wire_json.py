"""JSON for protocol lines, with only the C parts of the standard `json` package.

`import json` pulls in `re`, `enum` and more: 12 ms natively, over 0.1 s in software emulation. If the
interpreter lacks the C parts or changed their signature, the full package is used.
"""

from __future__ import annotations


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


class _Context:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)
    memo: dict[str, str] = {}


try:
    import _json

    _scan = _json.make_scanner(_Context())  # pyright: ignore[reportArgumentType]
    _encode = _json.make_encoder(  # pyright: ignore[reportAssignmentType]
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    "".join(_encode({"probe": [1, 0.5, None, "é"]}, 0))
except (ImportError, AttributeError, TypeError):
    import json

    _scan = json.JSONDecoder(parse_constant=_refuse).scan_once  # pyright: ignore[reportAttributeAccessIssue]

    def _encode(value: object, _level: int) -> list[str]:
        return [json.dumps(value, separators=(",", ":"), allow_nan=False)]


def loads(line: bytes) -> object:
    """The value of one JSON text. Raises ValueError, whatever the bytes are."""
    text = line.decode("utf-8").strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not a JSON value") from None
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if end != len(text):
        raise ValueError("text after the JSON value")
    return value


def dumps(value: object) -> bytes:
    """One line of ASCII without the newline; lone surrogates (odd file names) survive as escapes."""
    return "".join(_encode(value, 0)).encode("ascii")
