"""Evaluate a detector, segmentor, video or image classifier: mAP, mIoU or top-1.

The command ``mmswinv2 test`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('test')
