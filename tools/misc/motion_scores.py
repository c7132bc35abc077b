"""Print the accuracy on drawn motion, of all classes and of the four directions alone.

motion_scores.py NAME=SCORES.pkl ...     dumped by tools/test.py --dump
"""

from pathlib import Path

import numpy as np

from mmswinv2.checkpoints import read_pickle
from mmswinv2.checkpoints.files import check_forms
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser

_FORMS = {
    'samples': (
        lambda value: (
            isinstance(value, list)
            and value
            and all(isinstance(s, dict) and {'pred_score', 'gt_label'} <= s.keys() for s in value)
        ),
        'predictions of a classifier',
    )
}
DIRECTIONS = 4  # left, right, up, down are the first classes of make_motion.py


def accuracies(path):
    """Accuracy over all clips, and over the clips of the four directions."""
    if not Path(path).is_file():
        raise UserError(f'{path} does not exist; write it with tools/test.py --dump {path}')
    samples = read_pickle(path)
    check_forms(dict(samples=samples), _FORMS, f'{path}:')
    truth = np.array([int(sample['gt_label']) for sample in samples])
    hits = truth == [int(sample['pred_score'].argmax()) for sample in samples]
    return hits.mean(), hits[truth < DIRECTIONS].mean()


def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('scores', nargs='+', metavar='NAME=SCORES.pkl')
    scores = parser.parse_args().scores
    width = max(len(item.split('=')[0]) for item in scores)
    for item in scores:
        name, separator, path = item.partition('=')
        if not separator:
            raise UserError(f'{item!r} is not NAME=SCORES.pkl')
        overall, directions = accuracies(path)
        print(f'{name:{width}}  top-1 {overall:.3f}  directions alone {directions:.3f}')
    print(
        'chance: 0.167 and 0.250; 0.500 for whoever sees the axis, which needs no order of frames'
    )


if __name__ == '__main__':
    with report_user_errors():
        main()
