import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mmengine.config import Config

from mmswinv2.engine.configs import config_with_options, read_config
from mmswinv2.engine.settings import set_tta
from mmswinv2.errors import UserError
from tests.test_tools.conftest import CONFIG, ROOT


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('comma.json', b'{"a": 1,}'),
        ('list.json', b'[1, 2]'),
        ('open.yml', b'a: [1'),
        ('latin.py', '# Größe\nmodel = None'.encode('latin-1')),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
@pytest.mark.filterwarnings('ignore::ResourceWarning')  # mmengine leaves a file open
def test_configs_that_cannot_be_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name}, or one of its bases, cannot be read'):
        read_config(tmp_path / name)
    gc.collect()


def test_names_that_no_package_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.py', '._a.py'):
        (tmp_path / name).touch()
    for name, words in (
        ('mmdet::retinanet/retinanet.py', 'is not one config of mmdet: no such file; beside it: r'),
        ('mmswinv2::detection/a', 'is not one config of mmswinv2: no such file; beside it: [a-z]'),
        ('mmnothing::a', 'mmnothing::a: the package mmnothing is not installed'),
        ('torch::a', r'torch::a: torch brings no configs \(.*configs does not exist\)'),
        ('b.py', r'^the config b.py does not exist; there are a.py$'),
    ):
        with pytest.raises(UserError, match=words):
            read_config(name)
    (tmp_path / 'mmdet::own.py').write_text('a = 1\n')
    assert read_config('mmdet::own.py').a == 1


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_a_mistake_in_the_program_of_a_config_is_none_of_the_command(tmp_path):
    (tmp_path / 'bug.py').write_text('number = int("a")')
    with pytest.raises(ValueError, match='^invalid literal'):  # not a UserError
        read_config(tmp_path / 'bug.py')
    gc.collect()


def test_modules_of_the_command_line_are_imported(tmp_path, monkeypatch):
    (tmp_path / 'imported_late.py').write_text('import os\nos.environ["IMPORTED_LATE"] = "1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('IMPORTED_LATE', '0')
    options = {'custom_imports.imports': ['imported_late']}
    config_with_options(str(ROOT / CONFIG), options)
    assert os.environ['IMPORTED_LATE'] == '1'


def test_modules_of_the_command_line_that_are_not_there():
    options = {'custom_imports.imports': ['no_such_module']}
    with pytest.raises(UserError, match='Failed to import no_such_module .*; name a module that'):
        config_with_options(str(ROOT / CONFIG), options)


@pytest.mark.parametrize(
    'value',
    [
        *('os', dict(allow_failed_imports=True), dict(imports=['os'], allow=True)),
        *(dict(imports=5), dict(imports=[5]), dict(imports=('os',))),
    ],
    ids=str,
)
def test_imports_that_are_not_named(value):
    with pytest.raises(UserError, match=r'custom_imports=.* must be a dict with imports=\[...\]'):
        config_with_options(str(ROOT / CONFIG), {'custom_imports': value})


def test_a_module_of_the_command_line_that_fails_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / 'adds_text.py').write_text('1 + "a"\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match='unsupported operand'):
        config_with_options(str(ROOT / CONFIG), {'custom_imports.imports': ['adds_text']})


def test_classes_of_pure_python_configs_stay_names(tmp_path):
    """Or the copy of the config in the work dir could not be read."""
    (tmp_path / 'base.py').write_text("data_root = 'data/'\n")
    path = tmp_path / 'a.py'
    path.write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n    from .base import *\n'
        'from mmengine.hooks import EMAHook\nfrom mmengine.model import BaseTTAModel\n'
        'custom_hooks = [dict(type=EMAHook, file=data_root)]\n'
        'model = dict(type=EMAHook)\ntta_model = dict(type=BaseTTAModel)\ntta_pipeline = [dict()]\n'
        'test_dataloader = dict(dataset=dict(pipeline=[dict()]))\n'
    )
    cfg = config_with_options(str(path), {'data_root': str(tmp_path)})
    set_tta(cfg)
    cfg.dump(tmp_path / 'copy.py')
    copy = read_config(tmp_path / 'copy.py')
    assert copy.custom_hooks[0].file == copy.data_root == f'{tmp_path}/'
    for kind, name in ((copy.custom_hooks[0].type, 'EMAHook'), (copy.model.type, 'BaseTTAModel')):
        assert name in str(kind)


def test_a_data_root_of_none():
    with pytest.raises(UserError, match='data_root=None in --cfg-options must be a folder'):
        config_with_options(str(ROOT / CONFIG), {'data_root': None})


def test_a_data_root_leaves_alone_what_is_no_data():
    cfg = dict(data_root='data/', load_from='data/a.pth', work_dir='data/runs',
               model=dict(init_cfg=dict(checkpoint='data/b.pth')),
               val_evaluator=dict(ann_file='data/c.json'))  # fmt: skip
    cfg = config_with_options(Config(cfg), {'data_root': '/new'})
    assert cfg.val_evaluator.ann_file == '/new/c.json'
    assert (cfg.load_from, cfg.work_dir) == ('data/a.pth', 'data/runs')
    assert cfg.model.init_cfg.checkpoint == 'data/b.pth'
    with pytest.raises(UserError, match='the config has no data_root of its own'):
        config_with_options(Config(dict(data_root=['a', 'b'])), {'data_root': '/new'})


def test_a_folder_of_data_may_have_a_number_for_a_name():
    cfg = config_with_options(str(ROOT / CONFIG), {'data_root': 2024})
    assert cfg.data_root == cfg.train_dataloader.dataset.data_root == '2024/'


def test_a_config_that_is_its_own_base(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = 'b.py'\n")
    (tmp_path / 'b.py').write_text("_base_ = 'a.py'\n")
    with pytest.raises(UserError, match=r'a.py is its own _base_'):
        read_config(tmp_path / 'a.py')


def test_options_below_a_number():
    with pytest.raises(UserError, match=r'--cfg-options train_cfg.max_iters.x'):
        config_with_options(str(ROOT / CONFIG), {'train_cfg.max_iters.x': 3})


@pytest.mark.parametrize('place', ['9.gamma', '-1.gamma', 'x.gamma', '0'])
def test_options_at_no_place_of_a_list(place):
    cfg = Config(dict(param_scheduler=[dict(type='StepLR', step_size=1)]))
    with pytest.raises(UserError, match=f'param_scheduler.{place}: there is no such place .*index'):
        config_with_options(cfg, {f'param_scheduler.{place}': 0.5})


def test_options_replace_a_dict_in_a_list():
    cfg = Config(dict(param_scheduler=[dict(type='StepLR', step_size=1), dict(type='LinearLR')]))
    place = 'param_scheduler.0'
    options = {f'{place}.type': 'ExponentialLR', f'{place}.gamma': 0.5, f'{place}._delete_': True}
    cfg = config_with_options(cfg, options)
    assert cfg.param_scheduler == [dict(type='ExponentialLR', gamma=0.5), dict(type='LinearLR')]
    with pytest.raises(UserError, match='there is no such place .*index'):
        config_with_options(cfg, {'param_scheduler.2._delete_': True})


def test_deterministic_training_needs_no_seed():
    cfg = config_with_options(Config(), {'randomness.deterministic': True})
    assert cfg.randomness == dict(deterministic=True, seed=None)


class Cycle:
    """Garbage that lets other threads run while it is collected, as tensors are."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0)


def test_configs_that_several_threads_read():
    before = gc.get_threshold()
    gc.set_threshold(300)

    def read(_):
        for _ in range(50):
            Cycle()
        return config_with_options(ROOT / CONFIG, None).text

    try:
        with ThreadPoolExecutor(4) as pool:
            texts = set(pool.map(read, range(40)))
    finally:
        gc.set_threshold(*before)
    assert len(texts) == 1
