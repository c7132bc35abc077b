"""Pages that are files elsewhere in the repository, and links that work here and there.

A page of `docs/` that begins with `<!-- shown here: PATH -->` has the text of that file instead.
Links are written as the repository's browser wants them. Here, one to a page goes to that page, and
one to any other file to `repository_url` or, without that, becomes plain text.
"""

import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
SHOWN = re.compile(r'<!-- shown here: (\S+) -->')
CODE = re.compile(r'(^ *(`{3,}).*?^ *\2 *$|`[^`]+`)', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)')


def shown_files(docs):
    """File of the repository to page, of all pages that show one."""
    found = {}
    for page in docs.rglob('*.md'):
        if match := SHOWN.match(page.read_text(encoding='utf-8')):
            file = (page.parent / match[1]).resolve().relative_to(docs.parent)
            found[file.as_posix()] = page.relative_to(docs).as_posix()
    return found | {'README.md': 'index.md'}


def target_of(link, file, pages, url):
    """What a link in a file of the repository is on the site; `None` for text alone."""
    path, _, anchor = link.partition('#')
    if '://' in link or link.startswith('mailto:') or not path:
        return link
    target = (ROOT / file).parent.joinpath(path).resolve()
    name = target.relative_to(ROOT).as_posix()
    page = pages.get(name)
    if page is None and name.startswith('docs/') and target.suffix == '.md':
        page = name.removeprefix('docs/')
    if page:
        return f'/{page}' + (f'#{anchor}' if anchor and page != 'index.md' else '')
    kind = 'tree' if target.is_dir() else 'blob'
    return f'{url}/{kind}/main/{PurePosixPath(name)}' if url else None


def with_links(text, file, pages, url):
    """The text of a file with its links as the site wants them; code stays."""

    def changed(match):
        target = target_of(match[2], file, pages, url)
        return match[1] if target is None else f'[{match[1]}]({target})'

    parts, pieces = [], iter(CODE.split(text))
    # text, then code and its fence, in turn; `code` in the words of a link stays in them
    hidden = []
    for piece in pieces:
        parts.append(piece)
        code = next(pieces, None)
        if code is not None:
            next(pieces)
            parts.append(f'\0{len(hidden)}\0')
            hidden.append(code)
    text = LINK.sub(changed, ''.join(parts))
    return re.sub(r'\0(\d+)\0', lambda match: hidden[int(match[1])], text)


def read(app, docname, source):
    """Takes the place of what Sphinx has read."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != '.md':
        return
    file = page.relative_to(ROOT)
    if match := SHOWN.match(source[0]):
        file = (page.parent / match[1]).resolve().relative_to(ROOT)
        source[0] = (ROOT / file).read_text(encoding='utf-8')
        app.env.note_dependency(ROOT / file, docname=docname)
    pages = shown_files(ROOT / 'docs')
    source[0] = with_links(source[0], file, pages, app.config.repository_url.rstrip('/'))


def setup(app):
    app.add_config_value('repository_url', '', 'env')
    app.connect('source-read', read)
    return dict(version='1', parallel_read_safe=True)
