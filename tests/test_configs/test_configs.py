"""Every config builds, and the recipes carry the paper's numbers."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from tests.test_tools.conftest import ROOT

CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts
)

# configs of mmpretrain are built in tests/test_pretrain, where it is installed
OF_MMPRETRAIN = ('configs/classification/', 'configs/pretraining/')


def check_config(path, kinds=('train', 'val', 'test')):
    """Build the model and the transforms of a config, and look up its data sets of these kinds."""
    hosts.apply()
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    for dataset in (cfg[f'{kind}_dataloader'].dataset for kind in kinds):
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            assert registry.get(dataset.type) is not None
        with TRANSFORMS.switch_scope_and_registry(cfg.default_scope) as registry:
            assert all(registry.build(transform) is not None for transform in dataset.pipeline)


@pytest.mark.filterwarnings('ignore::UserWarning:mm(det|seg)')  # about their own defaults
@pytest.mark.parametrize('path', [p for p in CONFIGS if not p.startswith(OF_MMPRETRAIN)])
def test_config_builds(path):
    check_config(path)


def test_names_are_unique():
    names = [Path(p).name for p in CONFIGS]
    assert len(names) == len(set(names))  # `mim` finds configs by name only


@pytest.mark.parametrize(
    'task', ['detection', 'segmentation', 'video', 'classification', 'pretraining']
)
def test_metafile_lists_the_recipes(task):
    import yaml

    folder = f'configs/{task}/'
    meta = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())
    listed = {m['Config'] for m in meta['Models']}
    assert listed == {p for p in CONFIGS if p.startswith(folder) and 'nano' not in p}
    assert all(Path(m['Config']).stem == m['Name'] for m in meta['Models'])
    assert (ROOT / meta['Collections'][0]['README']).exists()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'{folder}metafile.yml' in index['Import']


@pytest.mark.parametrize('path', CONFIGS)
def test_scores_are_logged_at_the_iteration_where_a_training_counts_them(path):
    """By default mmengine logs scores at the epoch, which training by iterations does not have."""
    cfg = Config.fromfile(ROOT / path)
    by_epoch = cfg.default_hooks.logger.get('log_metric_by_epoch', True)
    assert by_epoch == ('max_epochs' in cfg.train_cfg)


def folders(node):
    if isinstance(node, dict):
        node = node.values()
    elif isinstance(node, str):
        yield from [node] if node.startswith('data/') else []
        return
    elif not isinstance(node, (list, tuple)):
        return
    for value in node:
        yield from folders(value)


@pytest.mark.parametrize('path', CONFIGS)
def test_one_option_moves_the_data(path):
    cfg = Config.fromfile(ROOT / path)
    others = {where for where in folders(cfg._cfg_dict) if not where.startswith(cfg.data_root)}
    # trained on one data set and tested on another: the header names the option for the test's path
    assert {name for name in others if 'imagenetv2' not in name} == set()


FOUR_CHANNELS = [path for path in CONFIGS if path.endswith('-4-channels.py')]


@pytest.mark.parametrize('path', FOUR_CHANNELS)
def test_other_loading_goes_on_to_configs_that_build_on_it(path, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{ROOT / path}'\ntest_pipeline = [{{{{_base_.load_image}}}}]\n")
    assert Config.fromfile(child).test_pipeline[0] == dict(
        type='mmswinv2.LoadImage', scale=(0, 65535), channels=4, to_float32=True
    )


def test_the_config_for_data_of_ones_own_takes_names(tmp_path):
    """A child config sets names of classes, as in docs/tutorials/own_data.md."""
    child = tmp_path / 'child.py'
    base = ROOT / 'configs/detection/mask-rcnn_swinv2-nano_coco-320.py'
    meta = dict(classes=('cat',))
    child.write_text(f"_base_ = '{base}'\ntrain_dataloader = dict(dataset=dict(metainfo={meta}))")
    assert Config.fromfile(child).train_dataloader.dataset.metainfo == meta
    assert Config.fromfile(base).train_dataloader.dataset.metainfo == {}


def test_configs_are_found_by_prefix(tmp_path):
    """A user's config needs no path to its base in this package, as with mmdet's configs."""
    hosts.apply()
    child = tmp_path / 'child.py'
    child.write_text(
        "_base_ = ['mmswinv2::detection/mask-rcnn_swinv2-nano_shapes.py',\n"
        "          'mmswinv2::_base_/strategies/zero1.py']\n"
    )
    cfg, zero = Config.fromfile(child), 'configs/_base_/strategies/zero1.py'
    ours = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    assert cfg.model == ours.model and cfg.default_scope == 'mmdet'
    assert cfg.strategy == Config.fromfile(ROOT / zero).strategy
    child.write_text("_base_ = 'mmswinv2::detection/mask-rcnn.py'")
    with pytest.raises(UserError, match='there is no config detection/mask-rcnn.py in'):
        Config.fromfile(child)
