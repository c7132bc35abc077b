"""Look at every image and label map that a segmentation config trains and evaluates with.

Prints each that cannot be used: missing, damaged, of another size than its image, or with labels
that are no classes. tools/train.py would stop at the first of them that it comes across. If all can
be used, it warns of classes that have no pixel.
"""

import math

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS

from mmswinv2 import hosts
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, printable, report_user_errors
from mmswinv2.hosts.mmcv import name_unreadable_images
from mmswinv2.hosts.mmseg_label_maps import guard_seg_maps, has_seg_maps, warn_of_absent_classes
from mmswinv2.options import ArgumentParser, add_config_options
from mmswinv2.progress import track


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a segmentor')
    add_config_options(parser)
    return parser.parse_args()


def problems(dataset, where):
    """A sentence for each image of a data set that cannot be used."""
    steps = dataset.pipeline.transforms
    load_image = next((t for t in steps if isinstance(t, LoadImageFromFile)), None)
    guards = guard_seg_maps(dataset)
    if load_image is None or not guards:
        raise UserError(
            f'{where}: the pipeline has no LoadImageFromFile or no LoadAnnotations, and so nothing '
            'that could be looked at here'
        )
    for i in track(range(len(dataset)), 'label maps'):
        try:
            guards[0](load_image(dataset.get_data_info(i)))
        except UserError as error:
            yield str(error)


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    kinds = [kind for kind in ('train', 'val') if cfg.get(f'{kind}_dataloader') is not None]
    if not kinds:
        raise UserError(f'{args.config} has neither train_dataloader nor val_dataloader')
    hosts.check_data(cfg, kinds)
    name_unreadable_images.apply()
    hosts.use_registries(cfg)
    bad = looked_at = 0
    for kind in kinds:
        where = f'{kind}_dataloader'
        for dataset in hosts.inner_datasets(DATASETS.build(cfg[where].dataset)):
            if not has_seg_maps(dataset):
                raise UserError(f'{args.config}: {where} has a data set without label maps')
            looked_at += len(dataset)
            before = bad
            for problem in problems(dataset, where):
                bad += 1
                print(printable(problem))
            if bad == before:
                warn_of_absent_classes(dataset, guard_seg_maps(dataset)[0], where, math.inf)
    if bad:
        raise UserError(f'{bad} of {looked_at} images cannot be used')
    print(f'all of the {looked_at} images can be used')


if __name__ == '__main__':
    with report_user_errors():
        main()
