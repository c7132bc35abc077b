"""Format, lint and types: what `make lint` runs."""

import ast
import sys
from pathlib import Path

import pytest
import yaml

from tests.tool_server import run_program

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    'command',
    ['ruff format --check --diff .', 'ruff check .', 'mypy'],
)
def test_quality(command):
    run_program([sys.executable, '-m', *command.split()], cwd=ROOT).succeeded()


def test_kernels_have_no_chains_of_conditions():
    """Triton 3.2 and 3.3 do not compile `a and b and c`."""
    files = sorted((ROOT / 'mmswinv2/ops/triton').glob('*.py'))
    kernels = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and 'jit' in map(_last_name, node.decorator_list)
    ]
    assert len(kernels) > 20
    for node in (node for kernel in kernels for node in ast.walk(kernel)):
        assert not isinstance(node, ast.BoolOp) or len(node.values) == 2, ast.unparse(node)


def _last_name(decorator):
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(name).rpartition('.')[2]


def code_runners(source):
    """Names of calls that run code from their arguments or from a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        unsafe = any(k.arg == 'weights_only' and not k.value.value for k in node.keywords
                     if isinstance(k.value, ast.Constant))  # fmt: skip
        plain_load = name == 'torch.load' and not any(
            k.arg == 'weights_only' for k in node.keywords
        )
        if name in RUNNERS or unsafe or plain_load:
            yield name


RUNNERS = (
    'eval', 'exec', 'compile', 'pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.loads',
    'os.system', 'yaml.load', 'joblib.load', 'dill.loads', 'torch.hub.load',
    'torch.hub.load_state_dict_from_url',
)  # fmt: skip


@pytest.mark.parametrize('folder', ['mmswinv2', 'tools'])
def test_nothing_runs_what_a_file_says(folder):
    for path in (ROOT / folder).rglob('*.py'):
        assert list(code_runners(path.read_text())) == [], path


@pytest.mark.parametrize(
    'line',
    ['eval(x)', 'pickle.loads(x)', 'torch.load(x)', 'torch.load(x, weights_only=False)',
     'load(x, weights_only=False)'],
)  # fmt: skip
def test_what_runs_code_is_found(line):
    assert list(code_runners(line))
    assert not list(code_runners('torch.load(x, weights_only=True); net.eval()'))


def test_pre_commit_has_the_ruff_of_the_tests():
    config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    (ruff,) = [repo for repo in config['repos'] if repo['repo'].endswith('/ruff-pre-commit')]
    assert f'ruff=={ruff["rev"][1:]}\n' in (ROOT / 'requirements/tests.txt').read_text()
