"""A guest's root in the agent's place: answers file operations with what its argument says, not with files.

Takes the listener of port 5000 from the agent (pidfd_getfd) and stops the agent. The argument is JSON, path -> answer:
{"entry": …, "list": […], "flood": {"lines", "bytes"}, "content": text}.
"""
import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading

PORT = 5000
SYS_PIDFD_GETFD = 438
FRAME_BYTES_MAX = 65536
STDOUT = 2


def listener_of_the_agent():
    libc = ctypes.CDLL(None, use_errno=True)
    found, holders = None, []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(int(name))
            numbers = [int(number) for number in os.listdir(f"/proc/{name}/fd")]
        except OSError:
            continue
        for number in numbers:
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
            if fd < 0:
                continue
            if is_listener(fd):
                holders.append(int(name))
                found = found or socket.socket(fileno=os.dup(fd))
            os.close(fd)
        os.close(pidfd)
    for pid in holders:
        os.kill(pid, signal.SIGSTOP)
    return found


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
    listener = listener_of_the_agent()
    listener.setblocking(True)
    while True:
        peer, _address = listener.accept()
        peer.setblocking(True)
        threading.Thread(target=quietly, args=(peer, answers), daemon=True).start()


def quietly(peer, answers):
    try:
        serve(peer, answers)
    except OSError:
        pass


main()
