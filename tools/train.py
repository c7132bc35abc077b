"""Train a detector, segmentor, video or image classifier, or pre-train a backbone.

The command ``mmswinv2 train`` as a script.
"""

from mmswinv2.cli import run

if __name__ == '__main__':
    run('train')
