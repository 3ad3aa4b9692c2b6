"""A planted bug, which a fuzzer must find: shows that coverage guides it."""


def canary(data: bytes) -> None:
    if data[:4] == b"nv\xf0\x0d" and data[4:8] == b"open":  # noqa: SIM102
        if len(data) > 8 and data[8] == len(data):
            raise AssertionError("the planted bug")
