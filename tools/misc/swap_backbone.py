"""Give a config of mmdet or mmseg a SwinV2 backbone.

The command ``mmswinv2 swap`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('swap')
