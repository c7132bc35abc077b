"""A file in the place of a model: it takes the batches of a host and gives its data samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import UserError


def inputs_of(image: torch.Tensor, sample: Any, task: str) -> dict[str, np.ndarray]:
    """What a file takes, by name, for one picture or video of a host's pipeline.

    Args:
        image: without a batch's axis.
        sample: the host's data sample.
        task: see `Graph`.
    """
    inputs = dict(image=image[None].float().numpy())
    if task == 'segmentation':
        inputs['size'] = np.array(sample.ori_shape, dtype=np.int64)
    return inputs


class OnnxModel:
    """Runs the content of an ONNX file on what a host's data loader gives.

    Args:
        content: of the file, or its path.
        host_model: the model it came from, whose heads paste masks into pictures.
        task: see `Graph`.
    """

    def __init__(self, content: bytes | str, host_model: Any, task: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError('onnxruntime is not installed: pip install onnxruntime') from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            content, options, providers=['CPUExecutionProvider']
        )
        self.names = [output.name for output in self.session.get_outputs()]
        self.host_model, self.task = host_model, task

    def test_step(self, batch: Any) -> list[Any]:
        """Data samples with predictions, one picture after the other."""
        return [
            self._one(image, sample.new())
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True)
        ]

    def run(self, **inputs: np.ndarray) -> dict[str, torch.Tensor]:
        """Outputs by name."""
        found = self.session.run(None, inputs)
        return dict(zip(self.names, map(torch.from_numpy, found), strict=True))

    def _one(self, image: torch.Tensor, sample: Any) -> Any:
        found = self.run(**inputs_of(image, sample, self.task))
        if self.task == 'segmentation':
            from mmengine.structures import PixelData

            sample.set_data(dict(pred_sem_seg=PixelData(data=found['labels'])))
        elif self.task == 'detection':
            sample.pred_instances = self._instances(found, sample.metainfo)
        else:
            scores = found['scores'][0]
            sample.set_pred_score(scores)
            sample.set_pred_label(scores.argmax(0, keepdim=True))
        return sample

    def _instances(self, found: dict[str, torch.Tensor], meta: dict[str, Any]) -> Any:
        from mmengine.structures import InstanceData

        boxes = found['boxes'] / torch.tensor(meta['scale_factor']).repeat(2)
        out = InstanceData(bboxes=boxes, scores=found['scores'], labels=found['labels'])
        if 'masks' in found:
            out.masks = self._masks(found['masks'], boxes, meta['ori_shape'])
        return out

    def _masks(self, masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> Any:
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

        threshold = self.host_model.roi_head.test_cfg.mask_thr_binary
        out = torch.zeros((len(masks), size[0], size[1]), dtype=torch.bool)
        for i in range(len(masks)):
            pasted, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], *size[:2])
            own = (slice(i, i + 1), *place)
            out[own] = pasted >= threshold
        return out
