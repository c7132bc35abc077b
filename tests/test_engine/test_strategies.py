import os
import shutil

from mmswinv2.engine.strategies import find_ninja


def test_ninja_is_found_beside_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert shutil.which('ninja') is None
    find_ninja()
    assert shutil.which('ninja')
    found = os.environ['PATH']
    find_ninja()
    assert os.environ['PATH'] == found
