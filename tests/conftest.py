import pytest
from mmengine.logging import MMLogger


def pytest_collection_modifyitems(items):
    """Run the longest tests first, so that workers of pytest-xdist end at the same time."""
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)


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
