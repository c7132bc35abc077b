"""`{recipes} TASK`: a table of the recipes of a folder of `configs/`, from metafile and configs."""

import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from mmengine.config import Config
from repository import ROOT, target_of

LENGTHS = ('Epochs', 'Iterations')
ABOUT = (*LENGTHS, 'Batch Size', 'Window')


def recipes(task):
    """Name, config, metadata and weights of each recipe that the metafile of a task lists."""
    content = yaml.safe_load((ROOT / f'configs/{task}/metafile.yml').read_text(encoding='utf-8'))
    return content['Models']


def backbone_of(config):
    """Size of the network, window and pixels that a config says."""
    cfg = Config.fromfile(ROOT / config)
    backbone = cfg.model.backbone
    window = backbone.get('window_size', '')
    if isinstance(window, (list, tuple)):
        window = 'x'.join(map(str, window))
    return f'SwinV2-{backbone.get("arch", "?")}'.replace('SwinV2-swinv2_', 'SwinV2-'), str(window)


def table(task, link):
    """The table as lines of Markdown.

    Args:
        task: folder of `configs/`.
        link: from the path of a config to its address, or `None`.
    """
    rows = recipes(task)
    scores = sorted({key for row in rows for key in row.get('Metadata', {}) if key not in ABOUT})
    titles = [re.sub(r' \((?:paper|authors)\)$', '', score) for score in scores]
    columns = list(dict.fromkeys(titles))
    head = ['Recipe', *columns, 'Backbone', 'Window', 'Training', 'Batch']
    weights = any('Weights' in row for row in rows)
    if weights:
        head.append('Weights')
    yield f'| {" | ".join(head)} |'
    yield '| ' + ' | '.join(['---'] * len(head)) + ' |'
    for row in rows:
        meta = row.get('Metadata', {})
        address = link(row['Config'])
        name = f'`{row["Name"]}`'
        length = next((f'{meta[k]:,} {k.lower()}' for k in LENGTHS if k in meta), 'none')
        cells = [f'[{name}]({address})' if address else name]
        for column in columns:
            found = [
                f'{meta[score]} ({re.search("paper|authors", score)[0]})'
                for score, title in zip(scores, titles, strict=True)
                if title == column and score in meta
            ]
            cells.append(', '.join(found))
        cells += [*backbone_of(row['Config']), length, str(meta.get('Batch Size', ''))]
        if weights:
            file = row.get('Weights')
            cells.append(f'[{Path(file).stem}]({file})' if file else '')
        yield f'| {" | ".join(cells)} |'


class Recipes(Directive):
    """The table of one task, in a box that scrolls where it is too wide."""

    required_arguments = 1

    def run(self):
        env = self.state.document.settings.env
        (task,) = self.arguments
        env.note_dependency(str(ROOT / f'configs/{task}/metafile.yml'))
        for config in (ROOT / 'configs').rglob('*.py'):
            env.note_dependency(str(config))
        url = env.config.repository_url.rstrip('/')
        lines = table(task, lambda path: target_of(path, 'README.md', {}, url))
        box = nodes.container(classes=['recipes'])
        self.state.nested_parse(StringList(list(lines), 'recipes'), 0, box)
        return [box]


def setup(app):
    app.add_directive('recipes', Recipes)
    return dict(version='1', parallel_read_safe=True)
