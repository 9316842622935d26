"""A second process beside the tests'."""

from __future__ import annotations

import subprocess
import sys


def process_that(code: str) -> subprocess.Popen:
    """A process that has run some Python, and waits until it is killed or its `with` block ends."""
    waiting = f'import sys\n{code}\nprint("ready", flush=True)\nsys.stdin.read()'
    process = subprocess.Popen([sys.executable, '-c', waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    return process
