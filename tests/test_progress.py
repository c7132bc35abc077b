"""A terminal gets progress bars; tables have aligned columns."""

import os
import pty
import subprocess
import sys
from contextlib import suppress

COUNT = """
from mmswinv2.progress import track
print(sum(track(range(40), 'counting')))
print(sum(track(iter(range(40)), 'counting', 40)))
"""
WAIT = """
from mmswinv2.progress import waiting
with waiting('following a step'):
    print(780)
"""
TABLE = """
from mmswinv2.progress import print_table
print_table(iter([('weights', '1.5 GiB'), ('all of it', '10.5 GiB')]))
"""


def run(code, **streams):
    done = subprocess.run(
        [sys.executable, '-c', code],
        **dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | streams,
        text=True, env=os.environ | dict(TERM='xterm'),
    )  # fmt: skip
    assert done.returncode == 0
    return done


def on_terminal(code, stream):
    ours, theirs = pty.openpty()
    try:
        done = run(code, **{stream: theirs})
        os.close(theirs)
        shown = b''
        with suppress(OSError):  # at the end; the kernel hands the text over in parts
            while part := os.read(ours, 2**16):
                shown += part
        return shown.decode(), done
    finally:
        os.close(ours)


def test_it_is_quiet_where_there_is_no_terminal():
    done = run(COUNT + WAIT)
    assert done.stderr == '' and done.stdout.split() == ['780', '780', '780']


def test_a_terminal_sees_a_bar():
    shown, done = on_terminal(COUNT, 'stderr')
    assert done.stdout.split() == ['780', '780']
    assert 'counting' in shown and '100%' in shown


def test_a_terminal_sees_that_work_goes_on():
    shown, _ = on_terminal(WAIT, 'stderr')
    assert 'following a step' in shown


def test_tables_are_aligned():
    assert run(TABLE).stdout == 'weights     1.5 GiB\nall of it  10.5 GiB\n'
