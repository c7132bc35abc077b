"""The host packages: mmengine, mmdet, mmseg, mmaction2, mmpretrain.

Each host has a module, and some have others for patches and annotations. All other code gets the
host of a config from `of`. Importing this package imports no host but mmengine, and applies the
patches that every use needs (`apply`).
"""

from .checks import check_data, check_dataset, check_evaluator
from .config_files import find_config
from .configs import (
    as_list,
    dicts_in,
    dtype_name,
    inner_datasets,
    is_tracker,
    loads_as_stored,
    own_backbone,
    testing_pipeline,
    training_pipeline,
    type_name,
    without_annotations,
)
from .host import Host
from .inputs import input_size, sample_batch
from .lookup import HOSTS, PATCHES, apply, building, of, type_in, use_registries
from .pipelines import not_packed
from .strides import watch_strides
from .workers import patch_workers

__all__ = [
    'HOSTS',
    'PATCHES',
    'Host',
    'apply',
    'as_list',
    'building',
    'check_data',
    'check_dataset',
    'check_evaluator',
    'dicts_in',
    'dtype_name',
    'find_config',
    'inner_datasets',
    'input_size',
    'is_tracker',
    'loads_as_stored',
    'not_packed',
    'of',
    'own_backbone',
    'sample_batch',
    'testing_pipeline',
    'training_pipeline',
    'type_in',
    'type_name',
    'use_registries',
    'watch_strides',
    'without_annotations',
]

apply()
patch_workers(every=False)
