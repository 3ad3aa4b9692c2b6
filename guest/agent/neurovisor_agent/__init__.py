"""The agent inside a sandbox: it says hello to the host, then serves one operation per connection.

    host                                   guest
    <channel>_1024  <── link.py ────────   hello, then events as JSON lines
    <channel>       ──► operations.py ──   one connection = one operation (port 5000)
                           ├─ process.py   exec, python: streams, limits, how a program ended
                           │    ├─ spawn.py     fork, user, cgroup, terminal, exec
                           │    └─ fork_server.py ──► interpreter.py: another Python
                           │                            zygote.py, with warmed modules ──► script.py
                           ├─ worker.py    files.py, watch.py: a child with the user's own rights
                           ├─ passwd.py    accounts, read without the C library's look-up
                           ├─ settings.py  clock, environment, limits: from the hello, from `update`
                           └─ splice.py    tcp
    <channel>_1025  <── forward.py ─────   127.0.0.1:11434, the inference endpoint of user code
    <channel>_1026  <── forward.py ─────   127.0.0.1:11435, its package indexes

One thread, one epoll loop (loop.py): forking is safe and nothing needs a lock. Whatever may block, or
follows hostile paths, runs in a forked child, which imports nothing.
Software emulation makes Python 12 to 17 times slower, and `import json` or `import socket` alone would cost
0.1 s of each boot there: the agent imports C modules (`_json`, `_socket`, `select`) and leaves the rest out.
The protocol: spec/guest-protocol.md.
"""

VERSION = "0.1.0"
PROTOCOL = 1
