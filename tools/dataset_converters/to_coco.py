"""Write labels of YOLO, Pascal VOC, CSV or LabelMe as a COCO annotation file.

The command ``mmswinv2 convert data`` as a script.
"""

import sys

from mmswinv2.cli import run

if __name__ == '__main__':
    run('convert', ['data', *sys.argv[1:]])
