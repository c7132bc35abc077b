"""Which exceptions end in a sentence, and which in a traceback."""

from pathlib import Path

import pytest

from mmswinv2.errors import UserError, explain


def caught(function):
    with pytest.raises(Exception) as info:
        function()
    return info.value


def missing():
    Path('/nowhere/at/all').read_text()


def test_a_missing_file_is_named_however_often_it_is_raised_again():
    def again():
        try:
            missing()
        except FileNotFoundError as error:
            raise FileNotFoundError(f'class `X`: {error}')  # noqa: B904, as registries do

    def from_it():
        try:
            again()
        except FileNotFoundError as error:
            raise RuntimeError('no data') from error

    for function in (missing, again, from_it):
        assert explain(caught(function)).startswith('/nowhere/at/all: No such file')


def test_a_bug_after_an_error_is_a_bug():
    def bug():
        try:
            missing()
        except FileNotFoundError:
            None.attribute  # noqa: B018

    def hidden():
        try:
            missing()
        except FileNotFoundError:
            raise FileNotFoundError('a bug') from None

    assert explain(caught(bug)) is None
    assert explain(caught(hidden)) is None


def test_a_mistake_of_the_user_is_told_as_it_is():
    assert explain(UserError('do this')) == 'do this'
