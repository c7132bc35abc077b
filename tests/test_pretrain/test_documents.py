"""The configs for mmpretrain in documents, on real bases of mmpretrain."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmswinv2.core import SwinV2
from tests.test_tools.test_documents import OF_MMPRETRAIN, config_of


@pytest.mark.parametrize(('document', 'numbers', 'base'), OF_MMPRETRAIN)
def test_config(document, numbers, base, tmp_path):
    cfg = config_of(document, numbers, base, tmp_path)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    assert isinstance(model.backbone, SwinV2)
    scores = model.head.fc(model.extract_feat(torch.rand(2, 3, 64, 64))[-1])
    assert scores.shape == (2, cfg.model.head.num_classes) and scores.shape[1] in (2, 10)
    scores.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
