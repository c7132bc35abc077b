import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """pytest's `caplog`, which also has what is logged by mmengine's logger."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
