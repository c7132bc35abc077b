"""What values are checked with: kinds of numbers, names of classes, the error on a broken rule."""

import math
from typing import Any

from .errors import UserError


def is_count(value: Any, minimum: int = 1, maximum: float = math.inf) -> bool:
    """Whether `value` is an int from `minimum` to `maximum`; a bool does not count as an int."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float; a bool does not count as an int."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def want(name: str, value: Any, rule: str, holds: bool) -> None:
    """Raise `UserError` with the rule if it does not hold for the argument."""
    if not holds:
        raise UserError(f'{name} must be {rule}, got {value!r}')


def class_names(part: Any) -> set[str]:
    """Names of the class of a part of a run and of its bases, as users derive their own."""
    return {kind.__name__ for kind in type(part).__mro__}
