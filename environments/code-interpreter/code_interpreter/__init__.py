"""E2B's code interpreter, in the guest: HTTP on port 49999 of loopback, one Jupyter kernel per context.

    server.py   routes and their answers
      ├─ contexts.py   contexts; one execution at a time in each
      │    ├─ messages.py    messages of kernels as lines of the answer
      │    └─ languages.py   names of languages, code that sets variables
      └─ identity.py   the sandbox that this guest is now
    extension.py   runs inside the Python kernels
"""
