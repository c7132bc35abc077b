"""The patches of mmpretrain and torchvision, in the environment that has them."""

from tests.test_hosts.test_patches import (  # noqa: F401
    faults,
    needed,
    test_what_is_installed_needs_what_it_gets,
)
