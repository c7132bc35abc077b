"""Hooks for tests of whole trainings; configs take them in with custom_imports."""

import json

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmswinv2.engine.strategies import unwrap_model


@HOOKS.register_module()
class LossCurve(Hook):
    """Writes the loss of every iteration, averaged over the processes."""

    def __init__(self, path):
        self.path = path

    def after_load_checkpoint(self, runner, checkpoint):
        runner.logger.info(f'hooks see a batch size of {checkpoint["meta"]["batch_size"]}')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = torch.as_tensor(outputs['loss']).detach().clone().float()
        all_reduce(loss, 'mean')
        if get_rank() == 0:
            with open(self.path, 'a') as file:
                file.write(json.dumps([runner.iter + 1, float(loss)]) + '\n')


@HOOKS.register_module()
class Poison(Hook):
    """Makes the loss of one process NaN in one iteration."""

    def __init__(self, rank, iteration):
        self.rank, self.iteration = rank, iteration

    def before_train(self, runner):
        head = unwrap_model(runner.model).cls_head
        loss = head.loss

        def poisoned(*args, **kwargs):
            losses = loss(*args, **kwargs)
            if get_rank() == self.rank and runner.iter + 1 == self.iteration:
                losses['loss_cls'] = losses['loss_cls'] * float('nan')
            return losses

        head.loss = poisoned
