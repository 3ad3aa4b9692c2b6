"""Messages of kernels, as lines of an answer to /execute."""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime, timezone

from .languages import BARRIER

Line = dict[str, object]

_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def encode(line: Line) -> bytes:
    """ASCII only: clients decode each chunk of the answer by itself."""
    return json.dumps(line, ensure_ascii=True, default=str).encode() + b"\n"


def is_barrier(message: dict) -> bool:
    return message["msg_type"] == "display_data" and BARRIER in message["content"]["data"]


def line_of(message: dict) -> Line | None:
    """None: the client is not told of it."""
    kind, content = message["msg_type"], message["content"]
    if kind == "execute_input":
        return {
            "type": "number_of_executions",
            "execution_count": content.get("execution_count", 0),
        }
    if kind == "stream":
        return {"type": content["name"], "text": content["text"], "timestamp": _now()}
    if kind == "execute_result":
        return result(content["data"], is_main=True)
    if kind == "display_data":
        return result(content["data"], is_main=False)
    if kind == "error":
        return error(content["ename"], content["evalue"], "\n".join(content["traceback"]))
    return None


def error(name: str, value: str, traceback: str = "") -> Line:
    return {
        "type": "error",
        "name": name,
        "value": _TERMINAL_CODES.sub("", value),
        "traceback": _TERMINAL_CODES.sub("", traceback),
    }


def result(data: dict, is_main: bool) -> Line:
    line: Line = {"type": "result", "is_main_result": is_main}
    extra: dict[str, object] = {}
    for mime, value in data.items():
        field = _FIELDS.get(mime)
        if field is None:
            extra[mime] = value
        elif field == "text":
            line["text"] = _without_quotes(_TERMINAL_CODES.sub("", value))
        else:
            # Files in base64 may come in lines.
            line[field] = value.strip() if field in ("png", "jpeg", "pdf") else value
    line["extra"] = extra
    return line


def _without_quotes(text: str) -> str:
    """The text of a string's repr; others as they are, such as 'a' + 'b'."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    try:
        return text[1:-1] if isinstance(ast.literal_eval(text), str) else text
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
