"""ImageNet-V2, whose folders are named by the numbers of the classes."""

import os
from pathlib import Path

from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.datasets.custom import CustomDataset, get_samples

from ..errors import UserError
from ..files import is_of_system
from ..registry import DATASETS


@DATASETS.register_module()
class ImageNetV2(CustomDataset):
    """New test images for ImageNet-1K (https://arxiv.org/abs/1902.10811).

    Its three sets (``imagenetv2-matched-frequency-format-val``,
    ``imagenetv2-threshold0.7-format-val``, ``imagenetv2-top-images-format-val``) have a folder for
    each class, named by its number. Sorted as text, as elsewhere, class 10 would come before
    class 2 and top-1 would be near zero.

    Args:
        data_root: folder of the set.
        metainfo: ``classes``, if they are others than those of ImageNet-1K.
        **kwargs: of mmpretrain's ``CustomDataset``.

    Raises:
        UserError: if a class has no folder or no image, or a folder is no class.
    """

    METAINFO = {'classes': IMAGENET_CATEGORIES}  # noqa: RUF012, as mmengine has it

    def _find_samples(self) -> list[tuple[str, int]]:
        folders = (entry.name for entry in os.scandir(self.img_prefix) if entry.is_dir())
        names = {name for name in folders if not is_of_system(name)}
        wanted = {str(label) for label in range(len(self.CLASSES))}
        form = f'ImageNet-V2 has folders 0 to {len(wanted) - 1}, one for each class'
        for what, wrong in (('lacks', wanted - names), ('has', names - wanted)):
            if wrong:
                first = min(wrong, key=lambda name: (len(name), name))
                raise UserError(
                    f'{self.img_prefix} {what} the folder {first} (and {len(wrong) - 1} more); '
                    f"{form}: fetch it again, or set the data set's metainfo=dict(classes=...)"
                )
        self.folder_to_idx = {name: int(name) for name in sorted(wanted, key=int)}
        samples, empty = get_samples(self.img_prefix, self.folder_to_idx, self.is_valid_file)
        if empty:
            folder = Path(self.img_prefix, min(empty, key=int))
            raise UserError(f'{folder} holds no image ({", ".join(self.extensions)}); {form}')
        return samples
