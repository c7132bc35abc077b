"""What the package needs to know of every host package: `Host`."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from ..errors import UserError
from ..files import text_lines
from .configs import type_name
from .mmcv import keep_a_pixel, name_unreadable_images
from .patching import Patch
from .workers import patch_workers

# the keys of a sample under which host packages keep the name of its file
FILE_KEYS = ('img_path', 'filename', 'frame_dir')


class Host:
    """What the package needs to know of a host package, with plain defaults.

    Hosts have no state. Methods that take ``cfg`` take a whole config of this host.

    Args:
        name: import name of a package that has no class of its own here.
    """

    name = 'mmengine'  #: import name, and scope of its registries
    extra: str | None = None  #: the extra of our setup.py that installs it
    beside = ''  #: what else has to be installed, as text for a message
    early_patches: tuple[Patch, ...] = ()  #: applied in every process, before it is imported
    #: applied by `apply`; they import the host and what it builds on
    patches: tuple[Patch, ...] = (name_unreadable_images, keep_a_pixel)
    input_axes = 2  #: axes of a sample without channels, 2 of an image and 3 of a video
    heads_autocast = False  #: whether heads run under autocast on a CPU
    #: side of an image to try a swapped backbone on; ``None`` means no swapping
    swap_image_size: int | None = None
    draw_option = 'draw'  #: setting of its visualization hook that switches it on
    draw_interval = True  #: whether that hook skips images unless its ``interval`` is set
    #: dotted path of the setting for the output folder of that hook
    draw_folder = 'default_hooks.visualization.test_out_dir'
    #: metric that writes predictions to a file; ``None`` where they are label maps
    dump_metric: str | None = 'DumpResults'
    finds_boxes = False  #: whether predictions are boxes with scores
    class_scores = 'pred_score'  #: part of a prediction that has the scores of all classes
    visualizer = 'Visualizer'  #: type of the visualizer that draws predictions
    kind_of_model = 'Training'  #: what its models are, as text for the user
    #: names of the host's scripts in its folder ``.mim/tools/analysis_tools``
    analysis_tools: tuple[str, ...] = ()
    endless_samplers: tuple[str, ...] = ('InfiniteSampler',)  #: samplers that never stop
    #: hooks that change the steps of a data set in mid-run, and what of it they use
    switches: Mapping[str, str] = {}
    #: a pattern for each line of a list of samples, and what a line should be, for the message, by
    #: the type of a data set or the suffix of the list
    lists: Mapping[str, tuple[str, str]] = {}
    scores: tuple[tuple[str, ...], ...] = ()  #: type of a metric, its prefix, its scores

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def apply(self) -> None:
        """Apply the patches; repeated calls do nothing."""
        for patch in self.patches:
            patch.apply()
        patch_workers(every=True)

    def require(self, path: str) -> None:
        """Raise `UserError` if the host of the config at `path` is not installed."""
        if find_spec(self.name) is None:
            hint = (
                f": pip install '.[{self.extra}]' in a checkout{self.beside}" if self.extra else ''
            )
            raise UserError(
                f'{path} needs {self.name} (its default_scope), which is not installed{hint}'
            )

    def folder_hint(self, dataset: Any, key: str) -> str:
        """What to add to the error for a missing folder, `key` of the ``data_prefix``."""
        return ''

    def check_prefix(self, dataset: Any, where: str) -> None:
        """Raise `UserError` if the ``data_prefix`` of a data set lacks a key."""

    def check_list(self, path: Path, dataset: Any, where: str) -> None:
        """Raise `UserError` for a list of samples that the host would misread; see `lists`."""
        pattern, words = self.lists.get(type_name(dataset)) or self.lists.get(path.suffix, ('', ''))
        unlabelled = dataset.get('with_label') is False or dataset.get('split') == 'test'
        kind = dataset.get('type')
        own = getattr(kind, '__module__', str(kind)).startswith('mmswinv2.')  # these check theirs
        if not pattern or unlabelled or own:
            return
        lines = text_lines(path, path.read_bytes()) or ['']
        if lines[0].startswith('\ufeff'):
            raise UserError(f'{where}: {path} begins with a byte order mark; save it without one')
        for number, line in enumerate(lines, 1):
            if not re.fullmatch(pattern, line.strip()):
                raise UserError(
                    f'{where}: {path}, line {number}: a line is {words}, got {line.strip()!r:.80}'
                )

    def dataset_class(self, dataset: Any) -> Any:
        """The class of a data set, given by its config; ``None`` if it is not registered."""
        kind = dataset.get('type')
        with DATASETS.switch_scope_and_registry(self.name) as datasets:
            return datasets.get(kind) if isinstance(kind, str) else kind

    def downloads(self, dataset: Any) -> bool:
        """Whether a data set, given by its config, downloads its files."""
        return False

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Raise `UserError` if annotations and model do not fit; see `hosts.check_dataset`.

        Returns whether it is a data set of this host.
        """
        return False

    def check_joined(self, datasets: Sequence[Any], where: str) -> None:
        """Warn of what all data sets of a loader, each of which was checked, leave out together."""

    def check_batch(self, model: Any, batch_size: int, where: str) -> None:
        """Raise `UserError` if a model cannot be tested with this batch size."""

    def check_metric(self, metric: Any, dataset: Any, where: str, model: Any = None) -> None:
        """Raise `UserError` if a metric cannot score the samples of a data set."""

    def score_names(self, metric: Any) -> list[str]:
        """Names of the scores of a metric, given by its config; empty for an unknown metric."""
        for kind, prefix, *names in self.scores:
            if type_name(metric) == kind:
                before = f'{prefix}/' if (prefix := metric.get('prefix') or prefix) else ''
                return [f'{before}{name}' for name in names]
        return []

    def check_views(self, pipeline: Any, where: str) -> None:
        """Raise `UserError` if results on views of test-time augmentation cannot be merged."""

    def keep_file_names(self, dataset: Any) -> None:
        """Let the samples of a data set keep the names of their files (`FILE_KEYS`)."""

    def default_tta_model(self, cfg: Any) -> dict[str, Any] | None:
        """Config of a wrapper that merges the predictions on an image and on its mirror image.

        ``None`` if the host has none; raises `UserError` if this model's cannot be merged.
        """
        return None

    def check_tta_model(self, cfg: Any) -> None:
        """Raise `UserError` if the ``tta_model`` of a config cannot merge its predictions."""

    def frames(self, cfg: Any, sampling: Any) -> int:
        """Number of frames of a sample, from the config of the transform that samples them."""
        return int(sampling['clip_len'])

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """`count` random inputs and annotations for a training step, as a data loader gives them.

        `size` is ``(H, W)`` or ``(T, H, W)``.
        """
        raise UserError(f'no inputs are known for the models of {self.name} (default_scope)')

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A data sample without annotations; `meta` has ``img_shape`` and the like."""
        raise NotImplementedError

    def run_head(self, model: Any, outputs: Any) -> None:
        """Run the head where a forward pass with ``mode='tensor'`` stops before it."""
