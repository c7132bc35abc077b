import pytest
import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.config import Config

from mmswinv2.engine import processes
from mmswinv2.errors import UserError


@pytest.mark.parametrize('kind', ['mmengine.SingleDeviceStrategy', SingleDeviceStrategy])
def test_every_name_of_a_strategy(kind):
    cfg = Config(dict(launcher='none', strategy=dict(type=kind)))
    processes.set_up_processes(cfg)
    cfg.strategy.type = 'mmengine.DDPStrategy'
    with pytest.raises(UserError, match='strategy=DDPStrategy spreads the work over processes'):
        processes.set_up_processes(cfg)


@pytest.mark.parametrize('own', [None, dict(type='Own', part=1)])
def test_a_wrapper_of_ones_own_gets_no_settings_of_ddp(own, monkeypatch):
    for name in processes._VARIABLES['pytorch']:
        monkeypatch.setenv(name, '0')
    monkeypatch.setattr(processes, '_connect_processes', lambda backend: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=own, find_unused_parameters=True))
    processes.set_up_processes(cfg)
    ddp = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    assert cfg.model_wrapper_cfg == dict(
        own or dict(ddp, find_unused_parameters=True), device_ids=None
    )
