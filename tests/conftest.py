import pytest
from mmengine.logging import MMLogger


def pytest_collection_modifyitems(items):
    """The longest first, so that workers of pytest-xdist end together."""
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)


@pytest.fixture
def log(tmp_path, request):
    """What mmengine's current logger wrote since the test began, as a function."""
    path = tmp_path / 'log.txt'
    logger = MMLogger.get_instance(request.node.nodeid, log_file=str(path))

    def read():
        for handler in logger.handlers:
            handler.flush()
        return path.read_text()

    yield read
    MMLogger._instance_dict.pop(logger.instance_name)  # or it stays the current one
    for handler in logger.handlers:
        handler.close()
