"""Predict the memory that training a config needs on each GPU.

The command ``mmswinv2 estimate`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('estimate')
