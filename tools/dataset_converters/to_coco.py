"""Write labels of YOLO, Pascal VOC, CSV or LabelMe as a COCO annotation file.

to_coco.py FORMAT SOURCE OUT is `mmswinv2 convert data FORMAT SOURCE OUT`.
"""

import sys

from mmswinv2.cli import convert
from mmswinv2.errors import report_user_errors


def parse_args():
    return convert.parse_args(['data', *sys.argv[1:]])


if __name__ == '__main__':
    with report_user_errors():
        convert.convert_data(parse_args())
