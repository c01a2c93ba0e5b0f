"""Starts daemons: a program for `test_daemon.py`.

For each line on its standard input, the path of a configuration, it forks a process that is `edge-siamese run` with it,
and says `born PID` on its standard output, and `dead STATUS` in the end. What takes long to import is imported once.
"""

import os
import sys

import onnxruntime  # noqa: F401 - so that no child has to

import edge_siamese.daemon.service  # noqa: F401 - likewise
from edge_siamese.cli.main import main

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # a daemon's events are for people
        os._exit(main(["run", "--config", line.strip()]))
    os.write(1, f"born {child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(1, f"dead {os.waitstatus_to_exitcode(status)}\n".encode())
