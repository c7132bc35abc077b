"""Bars on a terminal, and nothing elsewhere."""

import os
import pty
import subprocess
import sys

COUNT = """
from mmswinv2.progress import track
print(sum(track(range(40), 'counting')))
print(sum(track(iter(range(40)), 'counting', 40)))
"""


def run(stderr):
    done = subprocess.run(
        [sys.executable, '-c', COUNT],
        stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | dict(TERM='xterm'),
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.split() == ['780', '780']
    return done


def test_it_is_quiet_where_there_is_no_terminal():
    assert run(subprocess.PIPE).stderr == ''


def test_a_terminal_sees_a_bar():
    ours, theirs = pty.openpty()
    try:
        run(theirs)
        os.close(theirs)
        shown = os.read(ours, 2**16).decode()
    finally:
        os.close(ours)
    assert 'counting' in shown and '100%' in shown
