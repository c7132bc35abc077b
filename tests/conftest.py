import gc
import sys

import pytest
from mmengine.logging import MMLogger


def pytest_collection_modifyitems(items):
    """Run the longest tests first, so that workers of pytest-xdist end at the same time."""
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)


_FROZEN_AT = [0]


def pytest_runtest_setup():
    """Leave modules out of garbage collections: every data set of mmengine asks for a whole one.

    Repeated when a host has been imported. Collecting first keeps garbage from being kept.
    """
    if len(sys.modules) > _FROZEN_AT[0] + 50:
        gc.collect()
        gc.freeze()
        _FROZEN_AT[0] = len(sys.modules)


@pytest.fixture
def log(tmp_path, request):
    """A function that returns the text that mmengine's current logger wrote during the test."""
    path = tmp_path / 'log.txt'
    logger = MMLogger.get_instance(request.node.nodeid, log_file=str(path))

    def read():
        for handler in logger.handlers:
            handler.flush()
        return path.read_text()

    yield read
    MMLogger._instance_dict.pop(logger.instance_name)  # else it stays the current logger
    for handler in logger.handlers:
        handler.close()
