"""A guest's root in the agent's place: answers file operations with what its argument says, not with files.

The agent is out of its reach, but each child of the agent has the agent's descriptors for its first moments, in the pid
namespace of the programs. From one this takes the listener of port 5000 (pidfd_getfd), and then accepts connections
before the agent does, by a real-time priority. The argument is JSON, path -> answer:
{"entry": …, "list": […], "flood": {"lines", "bytes"}, "content": text}, or {"reply": a line}.
"""
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

PORT = 5000
SYS_PIDFD_GETFD = 438
FRAME_BYTES_MAX = 65536
STDOUT = 2
FIRST_FD, LAST_FD = 3, 200
# Pids are given in order; some have ended before they are seen.
PIDS_AHEAD = 64
POLL_S = 0.0001
REAL_TIME = 50
SERVERS = 12


def listener_of_the_agent():
    libc = ctypes.CDLL(None, use_errno=True)
    last = max(int(name) for name in os.listdir("/proc") if name.isdigit())
    while True:
        time.sleep(POLL_S)
        for pid in range(last + 1, last + 1 + PIDS_AHEAD):
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            last = pid
            found = listener_of(libc, pidfd)
            os.close(pidfd)
            if found is not None:
                return found


def listener_of(libc, pidfd):
    for number in range(FIRST_FD, LAST_FD):
        fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
        if fd < 0:
            continue
        found = socket.socket(fileno=os.dup(fd)) if is_listener(fd) else None
        os.close(fd)
        if found is not None:
            return found
    return None


def is_listener(fd):
    try:
        one = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with one:
        if one.family != socket.AF_VSOCK:
            return False
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and one.getsockname()[1] == PORT


def frames(content):
    for at in range(0, len(content), FRAME_BYTES_MAX):
        part = content[at : at + FRAME_BYTES_MAX]
        yield struct.pack(">BI", STDOUT, len(part)) + part


def lines_of(answer):
    if "flood" in answer:
        name = "x" * answer["flood"]["bytes"]
        for number in range(answer["flood"]["lines"]):
            yield json.dumps({**answer["entry"], "name": f"{number}", "path": name}).encode() + b"\n"
    for entry in answer.get("list", []):
        yield json.dumps(entry).encode() + b"\n"


def serve(peer, answers):
    with peer, peer.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        op, answer = request["op"], answers.get(request.get("path"))
        if answer is None:
            stream.write(b'{"ok":false,"code":"not_found","message":"no answer"}\n')
        elif "reply" in answer:
            stream.write(answer["reply"].encode() + b"\n")
        elif op == "stat":
            stream.write(json.dumps({"ok": True, "entry": answer["entry"]}).encode() + b"\n")
        elif op == "list":
            stream.write(b'{"ok":true}\n')
            for line in lines_of(answer):
                for frame in frames(line):
                    stream.write(frame)
            stream.write(struct.pack(">BI", STDOUT, 0))
        elif op == "read":
            content = answer["content"].encode()
            stream.write(json.dumps({"ok": True, "bytes": len(content)}).encode() + b"\n")
            for frame in frames(content):
                stream.write(frame)
            stream.write(struct.pack(">BI", STDOUT, 0))
        stream.flush()


def main():
    answers = json.loads(sys.argv[1])
    set_priority(REAL_TIME)
    listener = listener_of_the_agent()
    # It stays non-blocking, which is also the agent's: that must not wait in an accept.
    listener.setblocking(False)
    # Several, so that some always wait in front of the agent while others serve.
    for _ in range(SERVERS - 1):
        if os.fork() == 0:
            break
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        set_priority(REAL_TIME)
        poll.poll()
        try:
            peer, _address = listener.accept()
        except BlockingIOError:
            continue
        set_priority(0)
        peer.setblocking(True)
        try:
            serve(peer, answers)
        except OSError:
            pass


def set_priority(value):
    os.sched_setscheduler(0, os.SCHED_FIFO if value else os.SCHED_OTHER, os.sched_param(value))


main()
