"""Finding the backbone in a model, and what cannot do with another one."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .notes import dicts_in

__all__ = ['find_owner']

_BOUND = {
    'SSDNeck': 'it passes maps of the old backbone on and continues them with its own layers',
    'SimpleFPN': 'it makes a pyramid out of the one map of a plain ViT',
    'Feature2Pyramid': 'it makes a pyramid out of the maps of a plain ViT, all of one size',
    'MultiLevelNeck': 'it makes a pyramid out of the maps of a plain ViT, all of one size',
    'RFP': 'its feedback runs through a second backbone made to take it',
}


def find_owner(model: Any) -> tuple[str, Any]:
    """The one dict of a model that holds a backbone, with its path; wrappers hold theirs inside.

    Raises:
        UserError: if there is none or are several, or if its parts are bound to their backbone.
    """
    owners = [
        (path, node)
        for path, node in dicts_in(model, 'model')
        if isinstance(node.get('backbone'), dict) and '.backbone' not in path
    ]
    if not owners:
        raise UserError('the model has no backbone=dict(...) to swap')
    if len(owners) > 1:
        raise UserError(
            f'the model has {len(owners)} backbones (in {", ".join(p for p, _ in owners)}), and '
            'which of them is meant cannot be told; swap each in a config of its own'
        )
    path, owner = owners[0]
    if teachers := [k for node in (model, owner) for k in node if k.startswith('teacher')]:
        raise UserError(
            f'the model learns from a teacher ({teachers[0]}) that was trained with its own '
            'backbone and statistics; swap the backbone of a config without one'
        )
    for where, node in dicts_in(owner, path):
        if '.backbone' in where:
            continue
        if 'shared_head' in node:
            raise UserError(
                f'{where}.shared_head ({node.shared_head.type}) is the last stage of the old '
                'backbone (a C4 detector); start from the FPN config of this family'
            )
        kind = str(node.get('type')).split('.')[-1]
        if kind in _BOUND:
            raise UserError(
                f'{where} ({kind}) is bound to its backbone: {_BOUND[kind]}; start from a config '
                'of this family with FPN or with a ResNet or Swin backbone'
            )
    return path, owner
