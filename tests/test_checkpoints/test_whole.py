import pytest
import torch
from torch import nn

from mmswinv2.checkpoints import CheckpointError, load_but, write_checkpoint


def model(width=4, classes=3, masks=False):
    torch.manual_seed(width + classes)
    parts = {'neck': nn.Linear(2, width), 'fc_cls': nn.Linear(width, classes)}
    return nn.ModuleDict(parts | ({'mask_head': nn.Linear(width, 1)} if masks else {}))


@pytest.fixture
def stage_1(tmp_path):
    path = tmp_path / 'iter_9.pth'
    write_checkpoint({'state_dict': model().state_dict(), 'meta': {}}, path)
    return path


def test_all_but_the_new_parts(stage_1):
    second = model(classes=5, masks=True)
    before = {key: value.clone() for key, value in second.state_dict().items()}
    report = load_but(second, stage_1, new=['mask_head', 'fc_cls'])
    assert report.loaded == ['neck.weight', 'neck.bias']
    assert report.new == [
        'fc_cls.weight', 'fc_cls.bias', 'mask_head.weight', 'mask_head.bias',
    ]  # fmt: skip
    assert report.unused == ['fc_cls.weight', 'fc_cls.bias']
    assert torch.equal(second['neck'].weight, model()['neck'].weight)
    for key in report.new:
        assert torch.equal(second.state_dict()[key], before[key])
    assert '2 of the model, 4 new (fc_cls.bias, fc_cls.weight, mask_head.bias' in str(report)


@pytest.mark.parametrize(
    ('arguments', 'new', 'words'),
    [
        (dict(width=8), [], r'another shape: 3, e.g. neck.weight \[4, 2\], here \[8, 2\]'),
        (dict(masks=True), [], 'missing in the file: 2, e.g. mask_head.weight'),
        (
            dict(classes=5),
            'fc_cls',
            "new must be a list of parts of names, none empty, got 'fc_cls'",
        ),
        (dict(classes=5), [''], r"none empty, got \[''\]"),
        (dict(classes=5), ['mask'], "no parameter of the model has 'mask' in its name"),
    ],
)
def test_another_model_changes_nothing(stage_1, arguments, new, words):
    second = model(**arguments)
    before = {key: value.clone() for key, value in second.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_but(second, stage_1, new)
    assert all(torch.equal(value, before[key]) for key, value in second.state_dict().items())


def test_what_the_model_lacks(tmp_path):
    write_checkpoint({'state_dict': model(masks=True).state_dict()}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='not in the model: 2, e.g. mask_head.weight'):
        load_but(model(), tmp_path / 'a.pth')
