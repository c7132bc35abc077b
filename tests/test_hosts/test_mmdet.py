import json

import pytest

from mmswinv2.errors import UserError
from mmswinv2.hosts import check_dataset


def coco(folder, names=('cat', 'dog')):
    box = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name='1.jpg', height=10, width=10)],
        annotations=[box | {'segmentation': [[0, 0, 9, 0, 9, 9]]}],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, start=1)],
    )
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    from mmdet.datasets import CocoDataset

    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[],
    )


def test_a_matching_data_set_passes_inside_wrappers_too(tmp_path):
    from mmengine.dataset import ConcatDataset, RepeatDataset

    dataset = coco(tmp_path)
    for wrapped in (dataset, RepeatDataset(dataset, 2), ConcatDataset([dataset, dataset])):
        check_dataset(wrapped, 'train_dataloader')


@pytest.mark.parametrize('wrapped', [False, True])
def test_names_that_do_not_match(tmp_path, wrapped):
    from mmengine.dataset import ConcatDataset

    with pytest.raises(UserError, match=r"lacks 1 of the 2 classes \('dog'\); it has 'cat', 'Dog'"):
        dataset = coco(tmp_path, names=('cat', 'Dog'))  # raises here if mmdet is already patched
        check_dataset(ConcatDataset([dataset]) if wrapped else dataset, 'train')
