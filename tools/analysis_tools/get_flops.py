"""Count the multiply-adds of a config's model, by part, and its parameters.

The command ``mmswinv2 flops`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('flops')
