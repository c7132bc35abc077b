#!/usr/bin/env python
"""Tell what is installed, and how to mend what is broken.

The command ``mmswinv2 doctor`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('doctor')
