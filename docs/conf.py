"""Settings of the documentation, which `make docs` builds."""

import functools
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs/_ext')]
# commands of the tutorials run on this environment and this checkout
os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
os.environ['PYTHONPATH'] = str(ROOT)
os.environ['PYTHONWARNINGS'] = 'ignore'
os.environ.setdefault('DS_ACCELERATOR', 'cpu')  # or DeepSpeed says that it found no GPU
os.environ['SHELLOPTS'] = 'errexit:pipefail'  # a cell of commands fails with the first of them

from nbclient import NotebookClient  # noqa: E402

from mmswinv2 import __version__  # noqa: E402

project = 'mmswinv2'
author = 'the authors of mmswinv2'
release = version = __version__
extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.githubpages',
    'sphinx_design',
    'sphinx_copybutton',
    'repository',
    'recipes',
]
exclude_patterns = ['_ext']

# Where files of the repository that are no pages are linked to; without it their names are text.
repository_url = os.environ.get('REPOSITORY_URL', '')

# --- pages ---------------------------------------------------------------------------------------

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4
suppress_warnings = ['myst.header']  # the README of a folder begins where it likes
language = 'en'
highlight_language = 'text'
html_theme = 'pydata_sphinx_theme'
html_title = f'mmswinv2 {version}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_sourcelink = False
html_theme_options = dict(
    header_links_before_dropdown=6,
    secondary_sidebar_items={'**': ['page-toc'], 'recipes/index': []},  # its tables are wide
    show_toc_level=2,
    navigation_with_keys=False,
    **(
        dict(icon_links=[dict(name='Source', url=repository_url, icon='fa-brands fa-github')])
        if repository_url
        else {}
    ),
)
html_sidebars = {'index': []}

# --- tutorials -----------------------------------------------------------------------------------

nb_execution_mode = 'cache'
nb_execution_cache_path = str(ROOT / 'build/docs-cache')
nb_execution_timeout = 1200  # of a cell
nb_execution_raise_on_error = False  # a warning, which is an error: the others are run too
nb_execution_show_tb = True
nb_output_stderr = 'remove'
nb_merge_streams = True
# what a command prints comes in pieces, between which myst-nb would put ends of lines
NotebookClient.__init__ = functools.partialmethod(NotebookClient.__init__, coalesce_streams=True)

# --- API -----------------------------------------------------------------------------------------

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True}
autodoc_class_signature = 'mixed'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are documented once
python_maximum_signature_line_length = 80
