"""Run an exported file in place of a model: a host's batches in, its data samples out."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch


def inputs_of(image: torch.Tensor, sample: Any, task: str) -> dict[str, np.ndarray]:
    """Inputs of an exported file, by name, for one picture or video without a batch axis."""
    inputs = dict(image=image[None].float().numpy())
    if task == 'segmentation':
        inputs['size'] = np.array(sample.ori_shape, dtype=np.int64)
    return inputs


class FileModel:
    """Runs an exported model on batches of a host's data loader.

    Args:
        content: the content of an ONNX file.
        host_model: the model that was exported; its settings are used to paste masks.
        task: see `Graph`.
        threads: number of threads; 0: the runtime's default.
    """

    def __init__(self, content: bytes, host_model: Any, task: str, threads: int = 0) -> None:
        self.content, self.host_model = content, host_model
        self.task, self.threads = task, threads

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name."""
        raise NotImplementedError

    def write(self, path: Path) -> None:
        """Write the file, and any second file of the format beside it."""
        raise NotImplementedError

    def test_step(self, batch: Any) -> list[Any]:
        """Predict on one picture after the other; returns the host's data samples."""
        return [
            self._one(image, sample.new())
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True)
        ]

    def _one(self, image: torch.Tensor, sample: Any) -> Any:
        """Predict on one picture or video, and put the results into its data sample."""
        inputs = inputs_of(image, sample, self.task)
        found = {key: torch.from_numpy(value) for key, value in self.run(**inputs).items()}
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
        """Boxes in pixels of the picture before it was resized, with scores, labels and masks."""
        from mmengine.structures import InstanceData

        boxes = found['boxes'] / torch.tensor(meta['scale_factor']).repeat(2)
        out = InstanceData(bboxes=boxes, scores=found['scores'], labels=found['labels'])
        if 'masks' in found:
            out.masks = self._masks(found['masks'], boxes, meta['ori_shape'])
        return out

    def _masks(self, masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> Any:
        """Binary masks (K, H, W) of the size of the picture, from probabilities in boxes."""
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

        threshold = self.host_model.roi_head.test_cfg.mask_thr_binary
        out = torch.zeros((len(masks), size[0], size[1]), dtype=torch.bool)
        for i in range(len(masks)):
            pasted, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], *size[:2])
            own = (slice(i, i + 1), *place)
            out[own] = pasted >= threshold
        return out


class OnnxModel(FileModel):
    """Runs a model with onnxruntime on the CPU."""

    @functools.cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(
            self.content, options, providers=['CPUExecutionProvider']
        )

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileModel`."""
        names = (output.name for output in self._session.get_outputs())
        return dict(zip(names, self._session.run(None, inputs), strict=True))

    def write(self, path: Path) -> None:
        """See `FileModel`."""
        path.write_bytes(self.content)


class OpenVinoModel(FileModel):
    """Runs a model with OpenVINO on the CPU, in float32 even where its default is bfloat16."""

    @functools.cached_property
    def _model(self) -> Any:
        import openvino

        return openvino.Core().read_model(self.content)

    @functools.cached_property
    def _compiled(self) -> Any:
        import openvino

        options = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=self.threads)
        return openvino.Core().compile_model(self._model, 'CPU', options)

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileModel`."""
        return {output.any_name: value for output, value in self._compiled(inputs).items()}

    def write(self, path: Path) -> None:
        """Write an ``.xml`` file, and the weights as ``.bin`` beside it."""
        import openvino

        openvino.save_model(self._model, path, compress_to_fp16=False)


FORMATS: dict[str, tuple[str, type[FileModel]]] = {  # name of a format: its file suffix and runtime
    'onnx': ('.onnx', OnnxModel),
    'openvino': ('.xml', OpenVinoModel),
}
