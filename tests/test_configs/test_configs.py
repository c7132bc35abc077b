"""Every config builds, and the recipes carry the paper's numbers."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmswinv2 import hosts
from tests.test_tools.conftest import ROOT

CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts
)

# mmpretrain's are built in tests/test_pretrain, where it is installed
OF_MMPRETRAIN = ('configs/classification/', 'configs/pretraining/')


@pytest.mark.filterwarnings('ignore::UserWarning:mm(det|seg)')  # on their own defaults
@pytest.mark.parametrize('path', [p for p in CONFIGS if not p.startswith(OF_MMPRETRAIN)])
def test_config_builds(path):
    hosts.apply()
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    from mmengine.registry import DATASETS, MODELS, TRANSFORMS

    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            assert registry.get(loader.dataset.type) is not None
        for transform in loader.dataset.pipeline:
            assert TRANSFORMS.build(transform) is not None


def test_names_are_unique():
    names = [Path(p).name for p in CONFIGS]
    assert len(names) == len(set(names))  # `mim` finds configs by name alone


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
