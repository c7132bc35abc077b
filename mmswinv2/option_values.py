"""Values of ``--cfg-options``, and of configs, that are read from text without running it."""

import ast
from typing import Any

from .errors import UserError

_BRACKETS = {'[': ']', '(': ')', '{': '}'}
_QUOTES = {'"', "'"}
_NOT_FINITE = ("float('inf')", "float('-inf')", "float('nan')")  # as configs are dumped


def parse_value(text: str) -> Any:
    """Parse a value like ``--cfg-options`` of mmengine, but keep the spaces inside it.

    Text in ``[]``, or with commas, becomes a list, and text in ``()`` a tuple. Numbers, ``True``,
    ``False`` and ``None`` are converted. Surrounding spaces and quotes are removed. What is
    written as in Python is read so: dicts, which mmengine leaves texts, and texts in quotes in a
    list, which it divides at their commas.

    Raises:
        UserError: if brackets do not match.
    """
    given = text.strip()
    text = given.strip('\'"').strip()
    if ',' not in text and not text.startswith((*_BRACKETS, 'dict(')):
        from mmengine.config import DictAction

        return DictAction._parse_int_float_bool(text)
    source = text if text.startswith((*_BRACKETS, 'dict(')) else given
    if (found := _python_value(source)) is not None:
        return found
    items = _divided(text)
    if len(items) > 1 or text.endswith(','):
        return [parse_value(item) for item in items]
    ends = text[:1] + text[-1:]
    if ends not in ('[]', '()'):
        return text
    try:
        inner = _divided(text[1:-1])
    except UserError:  # such as '(a) b (c)'
        return text
    values = map(parse_value, inner)
    return list(values) if ends == '[]' else tuple(values)


def _python_value(source: str) -> dict | list | tuple | None:
    """A dict, or a list or tuple with texts in quotes, as Python writes it; ``None``: it is none.

    Backslashes in lists are of paths of Windows, which Python would read otherwise.
    """
    quoted = _QUOTES & set(source) and '\\' not in source
    if not quoted and not source.startswith(('{', 'dict(')):
        return None
    try:
        found = plain_value(ast.parse(f'[{source}]', mode='eval').body)
    except (ValueError, SyntaxError, TypeError):  # TypeError: a list as a key
        return None
    if len(found) > 1:
        return found
    one = isinstance(found[0], (dict, list, tuple)) and not source.endswith(',')
    return found[0] if one else None


class _Plain(ast.NodeTransformer):
    """Turns ``dict(...)``, ``inf``, ``nan`` and ``float('inf')`` of a config into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == 'float' and (text := ast.unparse(node)) in _NOT_FINITE:
            return ast.Constant(float(text[7:-2]))
        if name != 'dict':
            return node  # literal_eval rejects it
        if node.args:  # mmengine writes dict({'a.b': 1})
            (only,) = node.args
            return only if isinstance(only, ast.Dict) and not node.keywords else node
        names = (k.arg for k in node.keywords)  # None for unpacking with **
        return ast.Dict(
            [ast.Constant(n) if n else None for n in names], [k.value for k in node.keywords]
        )

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ('inf', 'nan') else node


def plain_value(node: ast.expr) -> Any:
    """The value of an expression of plain values and ``dict(...)``, without running it.

    Raises `ValueError` or `TypeError` for any other.
    """
    return ast.literal_eval(_Plain().visit(node))


def _divided(text: str) -> list[str]:
    """Split a text at the commas outside of brackets; an empty text has no pieces."""
    pieces, opened = [''], ''
    for letter in text:
        if letter == ',' and not opened:
            pieces.append('')
            continue
        if letter in _BRACKETS:
            opened += letter
        elif letter in _BRACKETS.values():
            if not opened or _BRACKETS[opened[-1]] != letter:
                raise UserError(f'{letter} closes no bracket')
            opened = opened[:-1]
        pieces[-1] += letter
    if opened:
        raise UserError(f'{opened[-1]} is not closed')
    return pieces if pieces[-1].strip() else pieces[:-1]
