"""Checks the fields of a request, without I/O. Errors name the field."""

from __future__ import annotations

import errno

from . import limits
from .framing import STDERR, STDOUT


class RequestError(Exception):
    """Becomes the answer `{"ok": false, "code", "message"}`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.ESRCH: "not_found",
    errno.EEXIST: "already_exists",
    errno.ENOTEMPTY: "already_exists",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "too_large",
    errno.E2BIG: "too_large",
    errno.EAGAIN: "exhausted",
    errno.ENOMEM: "exhausted",
    errno.EMFILE: "exhausted",
    errno.ENFILE: "exhausted",
    errno.EISDIR: "invalid_request",
    errno.EINVAL: "invalid_request",
    errno.ENAMETOOLONG: "invalid_request",
    errno.ENOEXEC: "invalid_request",
    errno.ELOOP: "invalid_request",
}


def from_errno(number: int | None, what: str) -> RequestError:
    from os import strerror

    number = number or 0
    name = errno.errorcode.get(number, str(number))
    return RequestError(_CODES.get(number, "guest_failed"), f"{what}: {strerror(number)} ({name})")


class Options:
    """The fields of a request beyond the launch itself."""

    __slots__ = ("kind", "user", "tag", "stdin", "size", "timeout_s", "output_max", "detached")

    def __init__(
        self,
        kind: str,
        user: str,
        tag: str | None,
        stdin: bool,
        size: tuple[int, int] | None,
        timeout_s: float | None,
        output_max: int | None,
        detached: bool,
    ) -> None:
        self.kind = kind
        self.user = user
        self.tag = tag
        self.stdin = stdin
        self.size = size
        self.timeout_s = timeout_s
        self.output_max = output_max
        self.detached = detached


class Request:
    """The fields of one request; a wrong type or range raises RequestError `invalid_request`."""

    def __init__(self, fields: object) -> None:
        if not isinstance(fields, dict):
            raise RequestError("invalid_request", "the request is not a JSON object")
        self.fields: dict[str, object] = fields

    def text(self, field: str, default: str | None = None) -> str:
        value = self.optional_text(field)
        if value is None:
            if default is None:
                raise RequestError("invalid_request", f"{field} is missing")
            return default
        return value

    def optional_text(self, field: str) -> str | None:
        value = self.fields.get(field)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > limits.TEXT_CHARACTERS or "\0" in value:
            raise RequestError(
                "invalid_request",
                f"{field} is not a text of at most {limits.TEXT_CHARACTERS} characters without NUL",
            )
        return value

    def number(self, field: str, default: int, low: int, high: int) -> int:
        value = self.fields.get(field)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise RequestError(
                "invalid_request", f"{field} is not a whole number from {low} to {high}"
            )
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self.fields.get(field, default)
        if not isinstance(value, bool):
            raise RequestError("invalid_request", f"{field} is not true or false")
        return value

    def texts(self, field: str) -> list[str]:
        value = self.fields.get(field, [])
        if not isinstance(value, list) or len(value) > limits.ARGUMENTS:
            raise RequestError(
                "invalid_request", f"{field} is not a list of at most {limits.ARGUMENTS} texts"
            )
        if not all(isinstance(item, str) and "\0" not in item for item in value):
            raise RequestError("invalid_request", f"{field} has an item that is not a text without NUL")
        return value

    def env(self, field: str) -> dict[str, str]:
        value = self.fields.get(field, {})
        if not isinstance(value, dict) or len(value) > limits.ARGUMENTS:
            raise RequestError("invalid_request", f"{field} is not an object of at most {limits.ARGUMENTS} texts")
        for name, text in value.items():
            if not name or "=" in name or "\0" in name:
                raise RequestError(
                    "invalid_request", f"{field} has an invalid variable name (empty, or with '=' or NUL)"
                )
            if not isinstance(text, str) or "\0" in text:
                raise RequestError("invalid_request", f"{field}.{name} is not a text without NUL")
        return value

    def size(self, field: str) -> tuple[int, int] | None:
        """A terminal's columns and rows."""
        value = self.fields.get(field)
        if value is None:
            return None
        inner = Request(value)
        return inner.number("cols", 80, 1, 4096), inner.number("rows", 24, 1, 4096)

    def offsets(self, field: str) -> dict[int, int] | None:
        """An offset in bytes per output stream, by kind of frame."""
        value = self.fields.get(field)
        if value is None:
            return None
        inner = Request(value)
        return {
            STDOUT: inner.number("stdout", 0, 0, 2**53),
            STDERR: inner.number("stderr", 0, 0, 2**53),
        }
