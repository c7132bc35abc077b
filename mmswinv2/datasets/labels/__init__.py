"""Label files of other formats than COCO's, read one image at a time.

supervision reads most of them too, but converts polygons to pixel masks and back, stops at the
first bad line without naming the file, and does not report what it leaves out.
"""

from collections.abc import Callable

from .common import Labelled, LeftOut, Mark, Source
from .csv_table import read_csv
from .labelme import read_labelme
from .voc import read_voc
from .yolo import read_yolo

FORMATS: dict[str, Callable[[Source], tuple[list[str] | None, list[Labelled]]]] = {
    'yolo': read_yolo, 'voc': read_voc, 'csv': read_csv, 'labelme': read_labelme,
}  # fmt: skip

__all__ = ['FORMATS', 'Labelled', 'LeftOut', 'Mark', 'Source']
