from tests.test_tools.conftest import clips, shapes, tool, train  # noqa: F401  fixtures
