import logging
import os
import shutil

import pytest
from mmengine.logging import MMLogger

from mmswinv2.engine.strategies import DeepSpeedStrategy, find_ninja


def test_ninja_is_found_beside_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert shutil.which('ninja') is None
    find_ninja()
    assert shutil.which('ninja')
    found = os.environ['PATH']
    find_ninja()
    assert os.environ['PATH'] == found


@pytest.mark.parametrize(('iterations', 'rest'), [(8, 2), (9, 0), (0, 0)])
def test_gradients_that_deepspeed_does_not_use_are_told(iterations, rest):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    strategy.config = dict(gradient_accumulation_steps=3)
    strategy._warn_of_rest(iterations, 'the training has {}')
    logger.removeHandler(handler)
    told = [text for text in records if f'the gradients of the last {rest} are lost' in text]
    assert len(records) == len(told) == bool(rest)
