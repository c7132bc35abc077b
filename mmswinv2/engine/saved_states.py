"""Whether what a checkpoint has saved of a training fits the model and the optimizer to resume."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import is_model_wrapper

from ..checkpoints.formats import unwrapped
from ..errors import UserError
from ..log import warn

# keys of a parameter group that are no settings, or flags that do not change the results
NO_SETTINGS = {'params', 'param_names', 'foreach', 'fused', 'capturable', 'differentiable'}


def check_groups(name: str, configured: list[dict], stored: list[dict] | None) -> None:
    """Raise `UserError` if the state is of another kind of optimizer, or of other parameters."""
    if not configured or not stored:
        return
    kinds = [
        {k for k in groups[0] if k not in NO_SETTINGS and not k.startswith('initial_')}
        for groups in (configured, stored)
    ]
    core = {'betas', 'momentum', 'alpha', 'rho', 'eps'}
    sizes = [[len(group['params']) for group in groups] for groups in (configured, stored)]
    if kinds[0] & core != kinds[1] & core or sizes[0] != sizes[1]:
        raise UserError(
            f'{name}: the checkpoint has the state of another optimizer ({len(stored)} groups of '
            f'{sorted(kinds[1])} for {sum(sizes[1])} parameters, here {len(configured)} of '
            f'{sorted(kinds[0])} for {sum(sizes[0])}); set it as it was, or start from the weights '
            'alone with load_from'
        )


def check_states(name: str, configured: list[dict], state: dict) -> None:
    """Raise `UserError` if an optimizer state has another shape than its parameter."""
    numbers = [number for group in state.get('param_groups', ()) for number in group['params']]
    parameters = [parameter for group in configured for parameter in group['params']]
    for number, parameter in zip(numbers, parameters, strict=False):
        for key, value in state['state'].get(number, {}).items():
            # numbers of steps have no axes, and states of Adafactor fewer elements
            is_whole = isinstance(value, torch.Tensor) and value.ndim and not key.endswith('_var')
            if is_whole and value.shape != parameter.shape:
                raise UserError(
                    f'{name}: the checkpoint has {key} of shape {tuple(value.shape)} for a '
                    f'parameter of shape {tuple(parameter.shape)}; it is of another model: set '
                    'that as it was, or start from the weights alone with load_from'
                )


def check_shapes(model: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Raise `UserError` if weights to resume from have other names or shapes than the model's.

    ``load_from`` can leave out a head of another kind; a resumed optimizer state must fit.
    """
    # a part may be wrapped in the model or the file alone, as by torch.compile
    parameters = {unwrapped(key): parameter for key, parameter in model.named_parameters()}
    state = {unwrapped(key): value for key, value in state.items()}
    lacking = [key for key, p in parameters.items() if p.requires_grad and key not in state]
    wrapped = any(map(is_model_wrapper, model.modules()))  # so that names have a prefix inside
    if lacking and not wrapped and parameters.keys() & state.keys():  # else all have one
        raise UserError(
            f'--resume: the checkpoint lacks {len(lacking)} of the trained weights of the model, '
            f'such as {lacking[0]}; set the config as it was, or start from the weights alone with '
            'load_from'
        )
    for key, parameter in parameters.items():
        shapes = [tuple(getattr(x, 'shape', ())) for x in (state.get(key, parameter), parameter)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f'--resume: {key} has the shape {shapes[0]} in the checkpoint, and {shapes[1]} in '
                'the model of the config; set it as it was, or start from the weights alone with '
                'load_from, which leaves heads of another size out'
            )


def leave_averages(checkpoint: dict[str, Any]) -> None:
    """Let a run without EMAHook go on with the trained weights of a checkpoint.

    EMAHook saves them in the place of the averages, which stand where weights are loaded from.
    """
    trained = checkpoint.get('ema_state_dict') or {}
    weights = {k[len('module.') :]: v for k, v in trained.items() if k.startswith('module.')}
    if weights:
        checkpoint['state_dict'].update(weights)
        warn(
            'the checkpoint has averaged weights, and this config has no EMAHook: the run goes on '
            'with the weights that were averaged, and averages no more'
        )
