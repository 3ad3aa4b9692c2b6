"""Runs the probes in its first argument (JSON, base64) concurrently, and prints their outcomes as JSON.

The second argument is the number of seconds without an answer that count as silence.

Runs inside the sandbox under test and needs only the standard library of Python 3.7 or later. The only file
that it reads is /etc/resolv.conf; `hold` makes one, and `release` removes it.
"""

import base64
import concurrent.futures
import errno
import http.client
import json
import os
import socket
import ssl
import struct
import sys
import time
import urllib.error
import urllib.request

SECONDS = float(sys.argv[2])
BYTES_MAX = 2048
AT_ONCE = 96


def outcome_of(error):
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "silence"
    if isinstance(error, ssl.SSLError):
        return "TLS: " + (error.reason or "ended")
    if isinstance(error, socket.gaierror):
        return "no address"
    code = getattr(error, "errno", None)
    return errno.errorcode.get(code, type(error).__name__) if code else type(error).__name__


def read_all(connection):
    """Collects data until the other side closes or is silent."""
    received = b""
    end = "closed"
    deadline = time.monotonic() + 2 * SECONDS
    try:
        while len(received) < BYTES_MAX and time.monotonic() < deadline:
            piece = connection.recv(BYTES_MAX)
            if not piece:
                break
            received += piece
    except OSError as error:
        end = outcome_of(error)
    return ("answer" if received else end), received


def exchange(host, port, text, tls=False, servername=None):
    with socket.create_connection((host, port), SECONDS) as plain:
        plain.settimeout(SECONDS)
        connection = plain
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(plain, server_hostname=servername)
        connection.sendall(text.encode("latin1"))
        outcome, received = read_all(connection)
        return outcome, received, tls


def datagram(host, port, sent):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(SECONDS)
        connection.connect((host, port))
        connection.send(sent)
        return connection.recv(BYTES_MAX)


def own_resolver():
    with open("/etc/resolv.conf", encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
                return words[1]
    return "127.0.0.1"


def query_of(name, kind):
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return struct.pack(">6H", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def ask_name(server, name, kind, transport):
    query = query_of(name, kind)
    server = server or own_resolver()
    if transport == "udp":
        answer = datagram(server, 53, query)
    else:
        framed = struct.pack(">H", len(query)) + query
        tls = transport == "tls"
        answer = exchange(server, 853 if tls else 53, framed.decode("latin1"), tls)[1][2:]
    if len(answer) < 12:
        return "closed", ""
    code = answer[3] & 15
    return "answer", "code %d, %d answers" % (code, struct.unpack(">H", answer[6:8])[0])


def hold(host, port, text, path, seconds, seconds_max):
    """
    Makes the file, and sends the text repeatedly on one connection until it is no longer answered.

    Gives up some seconds after the file is removed: how long the change takes that shall end the connection depends on
    the endpoint.
    """
    open(path, "w").close()
    deadline = time.monotonic() + seconds_max
    released = False
    answers = 0
    end = "still answered"
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            connection.settimeout(SECONDS)
            while time.monotonic() < deadline:
                try:
                    connection.sendall(text.encode("latin1"))
                    if not connection.recv(BYTES_MAX):
                        end = "closed"
                        break
                except OSError as error:
                    end = outcome_of(error)
                    break
                answers += 1
                time.sleep(0.2)
                if not released and not os.path.exists(path):
                    released = True
                    deadline = min(deadline, time.monotonic() + seconds)
    finally:
        release(path)
    return end, "%d answers" % answers


def release(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def follow(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return "answer", "HTTP/1.1 %d\r\n\r\n" % answer.status + answer.read(BYTES_MAX).decode("latin1")
    except urllib.error.HTTPError as error:
        return "answer", "HTTP/1.1 %d\r\n\r\n" % error.code + error.read(BYTES_MAX).decode("latin1")
    except urllib.error.URLError as error:
        return outcome_of(error.reason), ""


def attempt(probe):
    kind = probe["kind"]
    if kind in ("tcp", "tls"):
        name = probe.get("servername")
        outcome, received, secured = exchange(
            probe["host"], probe["port"], probe.get("text", ""), kind == "tls", name
        )
        return outcome, received.decode("latin1"), secured
    if kind == "udp":
        return "answer", datagram(probe["host"], probe["port"], probe["text"].encode()).decode("latin1")
    if kind == "name":
        found = socket.getaddrinfo(probe["name"], None, socket.AF_INET, socket.SOCK_STREAM)
        return "answer", " ".join(sorted({entry[4][0] for entry in found}))
    if kind == "dns":
        return ask_name(probe.get("server"), probe["name"], probe["type"], probe["transport"])
    if kind == "url":
        return follow(probe["url"])
    if kind == "release":
        release(probe["path"])
        return "answer", ""
    seconds, seconds_max = probe["seconds"], probe["secondsMax"]
    return hold(probe["host"], probe["port"], probe["text"], probe["path"], seconds, seconds_max)


def report(probe):
    try:
        outcome, text, *rest = attempt(probe)
    # Malformed and truncated answers raise other errors than OSError.
    except (http.client.HTTPException, OSError, ValueError) as error:
        outcome, text, rest = outcome_of(error), "", []
    return {"outcome": outcome, "text": text[:BYTES_MAX], "secured": bool(rest and rest[0])}


def main():
    probes = json.loads(base64.b64decode(sys.argv[1]))
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        print(json.dumps(list(pool.map(report, probes))))


main()
