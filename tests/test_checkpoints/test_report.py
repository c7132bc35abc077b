"""Comparison of keys, and the report on it."""

import torch

from mmswinv2.checkpoints import compare_keys


def test_comparison_of_keys():
    """Every key of model and file is in exactly one list."""
    own = {
        'a.w': torch.zeros(2),
        'a.b': torch.zeros(3),
        'c': torch.zeros(1),
        'new.w': torch.ones(1),
    }
    given = {
        'a.w': torch.zeros(2),
        'a.b': torch.zeros(4),
        'd': torch.zeros(1),
        'x.new': torch.ones(1),
    }
    report = compare_keys('file.pth', own, given, new=['new'])
    assert (report.loaded, report.missing, report.unexpected) == (['a.w'], ['c'], ['d'])
    assert report.mismatched == ['a.b [4], here [3]']
    assert (report.new, report.unused) == (['new.w'], ['x.new'])
    assert report.problems() == (
        'another shape: 1, e.g. a.b [4], here [3]; missing in the file: 1, e.g. c; '
        'not in the model: 1, e.g. d'
    )
    assert report.problems(optional=lambda key: key in 'cd').startswith('another shape')
    assert 'missing' not in report.problems(optional=lambda key: key in 'cd')
    lines = str(report).splitlines()
    assert lines == [
        'Loaded file.pth',
        '  loaded 1, missing 1, unexpected 1, mismatched 1; 1 new (new.w), 1 of the file not used',
        '  missing: c',
        '  unexpected: d',
        '  mismatched: a.b [4], here [3]',
    ]


def test_a_long_list_is_cut():
    given = {f'k{i}': torch.zeros(1) for i in range(10)}
    text = str(compare_keys('file.pth', {}, given))
    assert text.endswith('unexpected: k0, k1, k2, k3, k4, k5, k6, k7 and 2 more')
