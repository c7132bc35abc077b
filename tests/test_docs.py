"""Documents against the code, and the imports of the package against docs/architecture.md."""

import ast
import functools
import re
import textwrap
from pathlib import Path

import pytest

from mmswinv2 import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmswinv2'
DOCUMENTS = sorted(
    [
        *ROOT.glob('*.md'),
        *ROOT.glob('docs/**/*.md'),
        *ROOT.glob('configs/*/README.md'),
        *ROOT.glob('.github/*.md'),
    ]
)
LONGEST_CHAIN = 13  # modules, without __init__.py of packages, which only re-export names


def names(documents):
    return [str(path.relative_to(ROOT)) for path in documents]


each_document = pytest.mark.parametrize('document', DOCUMENTS, ids=names(DOCUMENTS))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


# .mim holds copies or links of configs and tools
FILES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob('*.py'))
    if '.mim' not in path.relative_to(ROOT).parts
}


@functools.cache
def tree(module):
    return ast.parse(FILES[module].read_text())


# --- documents -----------------------------------------------------------------------------------


def test_architecture_lists_every_file():
    text = (ROOT / 'docs/architecture.md').read_text()
    text = text.partition('\n## All files\n')[2].partition('\n## ')[0]
    listed = re.findall(r'^\| `([\w/]+\.py)` \| \S', text, re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(PACKAGE)) for path in FILES.values())


def test_changelog_begins_with_this_version():
    versions = re.findall(r'^## \[(\d.*?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert versions[0] == __version__
    assert len(set(versions)) == len(versions)


def python_blocks(document):
    return re.findall(r'^```python\n(.*?)^```', document.read_text(), re.MULTILINE | re.DOTALL)


@each_document
def test_python_compiles(document):
    for block in python_blocks(document):
        compile(textwrap.dedent(block), str(document), 'exec')


def test_there_is_python_to_compile():
    assert len(python_blocks(ROOT / 'docs/how_to/use_in_a_config.md')) >= 2


OURS = re.compile(
    r'(?<![\w./-])(?:benchmarks|configs|docs|mmswinv2|requirements|tests|tools)/[\w.+{},*/-]+(?:::\w+)?'
)
FOREIGN = {'tools/misc/download_dataset.py'}  # a script of mmdet


def code(text):
    """Code blocks, and text in backticks, which may span two lines."""
    fence = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)
    yield from fence.findall(text)
    yield from re.findall(r'`([^`]+)`', fence.sub('', text))


def alternatives(path):
    """``a/{b,c}.py`` to ``a/b.py`` and ``a/c.py``."""
    if match := re.search(r'\{([^{}]*)\}', path):
        for choice in match[1].split(','):
            yield from alternatives(path[: match.start()] + choice + path[match.end() :])
    else:
        yield path


def is_there(path):
    path, _, test = path.partition('::')
    files = [file for file in ROOT.glob(path.rstrip('/.,')) if '.mim' not in file.parts]
    return bool(files) and (not test or f'def {test}(' in files[0].read_text())


@each_document
def test_files_of_the_project_exist(document):
    found = {
        path
        for text in code(document.read_text())
        for match in OURS.findall(text)
        for path in alternatives(match)
    }
    assert [path for path in sorted(found - FOREIGN) if not is_there(path)] == []


def field_descriptions(module):
    """First lines of the `#:` comments of a module."""
    before = ''
    for line in FILES[module].read_text().splitlines():
        if '#: ' in line and not before.lstrip().startswith('#: '):
            yield line.partition('#: ')[2]
        before = line


@pytest.mark.parametrize('module', FILES)
def test_descriptions_of_fields_are_whole_on_the_api_pages(module):
    """Sphinx takes what precedes the first colon for the type of a field."""
    lines = field_descriptions(module)
    assert [line for line in lines if ':' in re.sub(r'`[^`]*`', '', line)] == []


def anchors(document):
    """The anchors that GitHub makes from headings."""
    text = re.sub(r'^```.*?^```', '', document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-') for h in headings}


@each_document
def test_links_resolve(document):
    text = re.sub(r'^```.*?^```', '', document.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r'`[^`]*`', '', text)
    broken = []
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in link or link.startswith('mailto:'):
            continue
        path, _, anchor = link.partition('#')
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# --- renamed imports -----------------------------------------------------------------------------


def bound(module, imports=True):
    """Names that a module binds, with or without imported ones."""
    found = set()
    for node in statements(tree(module).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif imports and isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def is_known(name, imports=True):
    """Whether ``mmswinv2.<name>`` is a module, or a name that a module binds."""
    full = f'mmswinv2.{name}'
    module, _, attribute = full.rpartition('.')
    return full in FILES or (module in FILES and attribute in bound(module, imports))


def renames():
    """Old and new names of the tables in CHANGELOG.md."""
    rows = re.findall(r'^\| (`[a-z_]+\..*) \| (.+) \|$', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    for old, new in rows:
        place, _, members = old.partition(':')
        place, members = re.findall('`(.+?)`', place), re.findall('`(.+?)`', members)
        olds = [f'{place[0]}.{member}' for member in members] or place
        news = [name for name in re.findall('`(.+?)`', new) if re.fullmatch(r'[\w.]+', name)]
        yield olds, [name for name in news if '.' in name]


def test_renamed_imports():
    table = list(renames())
    assert len(table) > 70
    for olds, news in table:
        assert news and [name for name in news if not is_known(name)] == []
        assert [name for name in olds if is_known(name, imports=False)] == []


# --- imports -------------------------------------------------------------------------------------


def statements(body):
    """The statements that run when a module is imported, and those for type checkers."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in ('body', 'orelse', 'finalbody', 'handlers'):
                yield from statements(getattr(node, part, None) or [])


def imported(module):
    """Full names in the import statements of a module."""
    package = module if FILES[module].name == '__init__.py' else module.rpartition('.')[0]
    for node in statements(tree(module).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split('.')
            base = parts[: len(parts) - node.level + 1] if node.level else []
            target = '.'.join([*base, *([node.module] if node.module else [])])
            yield target
            yield from (f'{target}.{alias.name}' for alias in node.names)


def edges(module):
    """Our modules, with their packages, that `module` imports, without its own parent packages."""
    found = set()
    for target in imported(module):
        if target in FILES:
            parts = target.split('.')
            found |= {'.'.join(parts[:i]) for i in range(1, len(parts) + 1)}
    return {name for name in found if name != module and not module.startswith(f'{name}.')}


def depth(chain):
    return sum(name not in FILES or FILES[name].name != '__init__.py' for name in chain)


def longest_chain(graph):
    """The longest path, a list of modules.

    Raises:
        ValueError: if there is a cycle.
    """
    longest = {}

    def visit(module, way):
        if module in way:
            raise ValueError(' -> '.join([*way[way.index(module) :], module]))
        if module not in longest:
            below = [visit(name, [*way, module]) for name in sorted(graph[module])]
            longest[module] = [module, *max(below, key=depth, default=[])]
        return longest[module]

    return max((visit(module, []) for module in sorted(graph)), key=depth)


def test_chains_and_circles_are_found():
    assert longest_chain({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == ['a', 'b', 'c']
    with pytest.raises(ValueError, match='b -> c -> b'):
        longest_chain({'a': {'b'}, 'b': {'c'}, 'c': {'b'}})
    assert edges('mmswinv2.core.block') >= {'mmswinv2.ops', 'mmswinv2.core.layers'}


def test_no_module_is_imported_in_a_circle():
    longest_chain({module: edges(module) for module in FILES})


def test_chains_of_imports_are_short():
    chain = longest_chain({module: edges(module) for module in FILES})
    assert depth(chain) <= LONGEST_CHAIN, f'{depth(chain)}: {" -> ".join(chain)}'


# Layers that may be imported at the top of a module, from the table in docs/architecture.md.
MAY_IMPORT = {
    'launchers': '',
    'signals': '',
    'errors': 'launchers signals',
    'explanations': 'errors',
    'checks': 'errors',
    'files': 'errors',
    'log': 'errors',
    'option_values': 'errors',
    'options': 'errors launchers option_values',
    'progress': '',
    'ops': '',
    'core': 'ops checks errors',
    'paths': 'core ops',
    'checkpoints': 'core errors files progress',
    'hosts': 'checks errors explanations files log progress',
    'registry': '',
    'models': 'core paths checkpoints hosts registry checks errors',
    'datasets': 'hosts registry errors files log progress',
    'engine': 'core checkpoints hosts registry checks errors explanations files '
    'launchers log options',
    'analysis': 'core checkpoints hosts checks errors explanations files option_values options',
    'swap': 'core checkpoints hosts errors files',
    'deploy': 'core ops checks errors progress',
    'inference': 'checks errors files log progress',
    'cli': 'checks errors files options progress inference',
    '__main__': 'cli',
}


@pytest.mark.parametrize('layer', MAY_IMPORT)
def test_layers_import_what_they_may(layer):
    inside = [module for module in FILES if module.split('.')[1:2] == [layer]]
    used = {name.split('.')[1] for module in inside for name in edges(module) if '.' in name}
    assert inside and used - {layer} <= set(MAY_IMPORT[layer].split())


def test_every_layer_has_its_rule():
    assert {module.split('.')[1] for module in FILES if '.' in module} == set(MAY_IMPORT)


# --- switches ------------------------------------------------------------------------------------

CHANGING = {
    'add', 'append', 'clear', 'discard', 'extend', 'insert', 'pop', 'popitem', 'remove',
    'setdefault', 'sort', 'update',
}  # fmt: skip


def switches(source):
    """Mutable global state in a module: ``global``, and containers that it changes itself."""
    module = ast.parse(source)
    bound = set()
    for node in module.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            of_module = [t.id for t in targets if isinstance(t, ast.Name)]
            bound.update(of_module)
            flag = isinstance(node.value, ast.List) and len(node.value.elts) == 1
            constant = isinstance(node.value, ast.List) and of_module != ['__all__']
            if flag and of_module != ['__all__']:
                yield f'{of_module[0]} is a list of one'
            elif constant and not all(name.lstrip('_').isupper() for name in of_module):
                yield f'{of_module[0]} is a list'
    for function in ast.walk(module):
        if isinstance(function, ast.Global):
            yield f'global {", ".join(function.names)}'
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        stored = (ast.Store, ast.Del)
        for node in ast.walk(function):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, stored):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                changed = node.func.value if node.func.attr in CHANGING else None
            else:
                continue
            if isinstance(changed, ast.Name) and changed.id in bound - local_names(function):
                yield f'{changed.id} is changed in {function.name}'


def local_names(function):
    args = function.args
    given = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Name))
    return {a.arg for a in given if a} | {n.id for n in stored if isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize('module', FILES)
def test_modules_have_no_switches(module):
    assert list(switches(FILES[module].read_text())) == []


@pytest.mark.parametrize(
    ('source', 'told'),
    [
        ('_allowed = [True]', '_allowed is a list of one'),
        ('_allowed: list[bool] = [True]', '_allowed is a list of one'),
        ('grids = [1, 2]', 'grids is a list'),
        ('def f():\n    global on\n    on = 1', 'global on'),
        ('_on = {}\ndef f():\n    _on["a"] = 1', '_on is changed in f'),
        ('ON = set()\ndef f():\n    ON.add(1)', 'ON is changed in f'),
        ('ON = {}\nclass A:\n    def f(self):\n        del ON[0]', 'ON is changed in f'),
    ],
)
def test_switches_are_found(source, told):
    assert told in list(switches(source))


@pytest.mark.parametrize(
    'source',
    [
        "__all__ = ['a']",
        'ROWS = [1, 2]',
        "TABLE = {'a': 1}\ndef f(TABLE):\n    TABLE['b'] = 1",
        "_FASTER = {'AVX512'}\ndef f():\n    return 'a' in _FASTER",
    ],
)
def test_constants_are_no_switches(source):
    assert list(switches(source)) == []
