from tests.test_tools.conftest import run_code, tool  # noqa: F401  fixtures

LOOK_UP = """
import sys
from mmengine.registry import DATASETS, TRANSFORMS
import mmswinv2.registry
assert TRANSFORMS.get('mmswinv2.FiveCrop').__name__ == 'FiveCrop'
assert DATASETS.get('mmswinv2.NoDataset') is None
assert 'mmaction' not in sys.modules
assert DATASETS.get('mmswinv2.VideoDataset').__module__ == 'mmswinv2.datasets.video_dataset'
assert 'mmaction' in sys.modules and 'mmpretrain' not in sys.modules
assert mmswinv2.registry.DATASETS.get('VideoDataset') is DATASETS.get('mmswinv2.VideoDataset')
"""


def test_a_data_set_imports_its_own_host_and_no_other(run_code):  # noqa: F811
    run_code(LOOK_UP).succeeded()
