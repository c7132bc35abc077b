"""Convert SwinV2 weights of any published format to the keys of mmswinv2 (the authors' own).

The command ``mmswinv2 convert`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('convert')
