"""Every config of mmpretrain builds."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope

from tests.test_configs.test_configs import CONFIGS, OF_MMPRETRAIN
from tests.test_tools.conftest import ROOT


@pytest.mark.parametrize('path', [p for p in CONFIGS if p.startswith(OF_MMPRETRAIN)])
def test_config_builds(path):
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    for kind in ('train', 'val', 'test'):
        if (loader := cfg.get(f'{kind}_dataloader')) is None:
            assert kind != 'train'
            continue
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            assert registry.get(loader.dataset.type) is not None
        with TRANSFORMS.switch_scope_and_registry(cfg.default_scope) as registry:
            for transform in loader.dataset.pipeline:
                assert registry.build(transform) is not None
