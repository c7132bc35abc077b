from tests.test_tools.conftest import tool  # noqa: F401  a fixture
