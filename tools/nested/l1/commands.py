"""The nested host's server for the machine around it: runs scripts, and connects to its unix sockets.

A connection begins with one line of JSON with the key of this boot:
{"key", "run": bytes of the script that follows} -> its output as it comes, then a line `status=N`
{"key", "connect": path of a unix socket} -> `ok` and a newline, then its bytes both ways
"""
import hmac
import json
import socket
import subprocess
import threading

PORT = 2222
READY = "NESTED-HOST-READY"
CHUNK_BYTES = 65536


def boot_key():
    with open("/proc/cmdline") as words:
        return next(word[4:] for word in words.read().split() if word.startswith("key="))


def serve(peer, key):
    with peer, peer.makefile("rb") as stream:
        request = json.loads(stream.readline(4096))
        if not hmac.compare_digest(str(request.get("key")), key):
            return
        if "connect" in request:
            connect(peer, request["connect"])
        else:
            run(peer, stream.read(request["run"]))


def run(peer, script):
    program = subprocess.Popen(
        ["/bin/bash", "-s"],
        stdin=subprocess.PIPE,
        stdout=peer.fileno(),
        stderr=peer.fileno(),
        start_new_session=True,
    )
    program.communicate(script)
    peer.sendall(b"\nstatus=%d\n" % program.returncode)
    # What the script left running may hold the connection.
    peer.shutdown(socket.SHUT_RDWR)


def connect(peer, path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
        local.connect(path)
        peer.sendall(b"ok\n")
        back = threading.Thread(target=pump, args=(local, peer), daemon=True)
        back.start()
        pump(peer, local)
        back.join()


def pump(source, target):
    try:
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone; the other must not wait for it.
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def quietly(peer, key):
    try:
        serve(peer, key)
    except (OSError, ValueError, KeyError) as error:
        print(f"commands: {error!r}", flush=True)


def main():
    key = boot_key()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))
    listener.listen(64)
    print(READY, flush=True)
    while True:
        peer, _address = listener.accept()
        threading.Thread(target=quietly, args=(peer, key), daemon=True).start()


main()
