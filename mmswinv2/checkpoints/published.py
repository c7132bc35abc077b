"""The published weights by name: address, size, and the windows of their pre-training."""

from dataclasses import dataclass

from ..errors import CheckpointError, nearest


@dataclass(frozen=True)
class PublishedWeights:
    """One released file."""

    url: str  #: address
    arch: str  #: key of `core.VARIANTS`
    window: int  #: window size of the last training, in tokens
    image_size: int  #: side of the images of the last training, in pixels
    #: window size of the first training per stage, which ``pretrained_window_sizes`` has to be
    pretrained_windows: tuple[int, ...]
    sha256: str = ''  #: first digits of the file's SHA-256, empty where they are not published


_AUTHORS = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
_TORCHVISION = 'https://download.pytorch.org/models/'
# A window of 16 or 12 is limited to 8 or 6 tokens in the last stage, the whole map there.
_W8, _W12, _W16 = (8, 8, 8, 8), (12, 12, 12, 6), (16, 16, 16, 8)

# By file name without suffix. Within an arch in order of preference, see `find_published`.
_ROWS: list[tuple[str, str, str, int, int, tuple[int, ...]]] = [
    (_AUTHORS, 'swinv2_tiny_patch4_window16_256', 'tiny', 16, 256, _W16),
    (_AUTHORS, 'swinv2_tiny_patch4_window8_256', 'tiny', 8, 256, _W8),
    (_AUTHORS, 'swinv2_small_patch4_window16_256', 'small', 16, 256, _W16),
    (_AUTHORS, 'swinv2_small_patch4_window8_256', 'small', 8, 256, _W8),
    (_AUTHORS, 'swinv2_base_patch4_window16_256', 'base', 16, 256, _W16),
    (_AUTHORS, 'swinv2_base_patch4_window8_256', 'base', 8, 256, _W8),
    (_AUTHORS, 'swinv2_base_patch4_window12_192_22k', 'base', 12, 192, _W12),
    (_AUTHORS, 'swinv2_base_patch4_window12to24_192to384_22kto1k_ft', 'base', 24, 384, _W12),
    (_AUTHORS, 'swinv2_base_patch4_window12to16_192to256_22kto1k_ft', 'base', 16, 256, _W12),
    (_AUTHORS, 'swinv2_large_patch4_window12to24_192to384_22kto1k_ft', 'large', 24, 384, _W12),
    (_AUTHORS, 'swinv2_large_patch4_window12_192_22k', 'large', 12, 192, _W12),
    (_AUTHORS, 'swinv2_large_patch4_window12to16_192to256_22kto1k_ft', 'large', 16, 256, _W12),
    (_TORCHVISION, 'swin_v2_t-b137f0e2', 'tiny', 8, 256, _W8),
    (_TORCHVISION, 'swin_v2_s-637d8ceb', 'small', 8, 256, _W8),
    (_TORCHVISION, 'swin_v2_b-781e5279', 'base', 8, 256, _W8),
]
PUBLISHED = {
    name: PublishedWeights(
        f'{folder}{name}.pth',
        arch,
        window,
        image_size,
        windows,
        sha256=name.rpartition('-')[2] if folder == _TORCHVISION else '',
    )
    for folder, name, arch, window, image_size, windows in _ROWS
}


def published_weights(name: str) -> PublishedWeights:
    """Look up weights by name; if there are none, `CheckpointError` has the closest names."""
    if name not in PUBLISHED:
        hint = nearest(name, PUBLISHED) or f'; there are {", ".join(PUBLISHED)}'
        raise CheckpointError(f'{name} is neither a file nor the name of published weights{hint}')
    return PUBLISHED[name]


def find_published(arch: str, window: int | None = None) -> str | None:
    """The name of the weights to start an `arch` from, ``None`` if there are none.

    Those that were last trained with this window size are preferred.
    """
    names = [name for name, weights in PUBLISHED.items() if weights.arch == arch]
    fitting = [name for name in names if PUBLISHED[name].window == window]
    return next(iter([*fitting, *names]), None)
