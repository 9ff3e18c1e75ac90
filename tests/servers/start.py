"""Runs an installed server until its standard input ends: however the test process dies, no server is left over."""

import os
import runpy
import sys
import threading


def leave_with_parent():
    # Not sys.stdin: its lock would be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(0)


program = os.path.join(os.path.dirname(sys.executable), sys.argv[1])
threading.Thread(target=leave_with_parent, daemon=True).start()
sys.argv = [program, *sys.argv[2:]]
runpy.run_path(program, run_name="__main__")
