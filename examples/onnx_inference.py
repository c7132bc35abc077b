"""Run a file of `mmswinv2 export` on pictures with numpy and opencv-python, without torch.

Pillow is needed where the config brings pictures to size with it, as those of ImageNet do.

An .onnx file is run by onnxruntime, an .xml file by OpenVINO.

python examples/onnx_inference.py model.onnx photos/*.jpg --out-dir outputs
"""

import argparse
import itertools
import json
from pathlib import Path

import cv2
import numpy as np


def opened(path):
    """A function from inputs to outputs, both by name, and what the file tells of itself."""
    if path.endswith('.xml'):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        about = model.get_rt_info(['framework', 'mmswinv2']).astype(str)
        # left to itself OpenVINO takes bfloat16 on processors that have it
        compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        return lambda inputs: {o.any_name: x for o, x in compiled(inputs).items()}, about
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    about = session.get_modelmeta().custom_metadata_map['mmswinv2']
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True)), about


def scaled(image, size, step):
    """A picture of another size, by the library and the interpolation that a step names."""
    size = [max(1, n) for n in size]  # of strips
    way = step.get('interpolation', 'bilinear')
    if step.get('backend', 'cv2') == 'pillow':
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[way.upper()]))
    ways = dict(bilinear=cv2.INTER_LINEAR, bicubic=cv2.INTER_CUBIC, nearest=cv2.INTER_NEAREST,
                area=cv2.INTER_AREA, lanczos=cv2.INTER_LANCZOS4)  # fmt: skip
    return cv2.resize(image, size, interpolation=ways[way])


def cropped(image, step):
    """The middle of a picture."""
    height, width = image.shape[:2]
    if step.get('auto_pad'):
        raise SystemExit('pictures for CenterCrop with auto_pad are not made here')
    crop = step['crop_size']
    w, h = (crop, crop) if isinstance(crop, int) else crop
    top, left = max(0, round((height - h) / 2)), max(0, round((width - w) / 2))
    return image[top : top + h, left : left + w]


def size_by_edge(width, height, step):
    """Width and height after mmpretrain's `ResizeEdge`."""
    scale, edge = step['scale'], step.get('edge', 'short')
    shorter = 'width' if width < height else 'height'
    longer = 'width' if width > height else 'height'
    if dict(short=shorter, long=longer).get(edge, edge) == 'width':
        return scale, int(scale * height / width)
    return int(scale * width / height), scale


def size_by_scale(width, height, step):
    """Width and height after mmcv's `Resize`."""
    scale = step.get('scale')
    if scale is None:
        factor = step['scale_factor']
        fx, fy = (factor, factor) if isinstance(factor, (int, float)) else factor
        return int(width * fx + 0.5), int(height * fy + 0.5)
    scale = (scale, scale) if isinstance(scale, int) else scale
    if not step.get('keep_ratio'):
        return tuple(scale)
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def resized(image, steps):
    """A picture as the config's test pipeline brings it to size."""
    sizes = dict(Resize=size_by_scale, ResizeEdge=size_by_edge)
    for step in steps:
        kind = step['type'].split('.')[-1]
        if kind == 'CenterCrop':
            image = cropped(image, step)
        elif kind in sizes:
            height, width = image.shape[:2]
            image = scaled(image, sizes[kind](width, height, step), step)
        else:
            raise SystemExit(f'pictures for {kind} are not made here')
    return image


def paste(mask, box, size):
    """Probabilities on the grid of a box to a picture's size; zero around the box."""
    x1, y1, x2, y2 = box
    h, w = mask.shape
    columns = (np.arange(size[1]) + 0.5 - x1) / max(x2 - x1, 1e-6) * w - 0.5
    rows = (np.arange(size[0]) + 0.5 - y1) / max(y2 - y1, 1e-6) * h - 0.5
    place = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    return cv2.remap(mask, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def write(out, image):
    if not cv2.imwrite(str(out), image):
        raise SystemExit(f'{out} cannot be written')


def inputs_of(image, about):
    """The inputs of a file for a picture (B, G, R), and the size that the picture has in them."""
    small = resized(image, about['sizes']).astype(np.float32)
    if about['normalized']:  # the graph does neither
        small = small[..., ::-1] if about['reversed_channels'] else small
        small = (small - np.float32(about['mean'])) / np.float32(about['std'])
    inputs = dict(image=np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
    if about['task'] == 'segmentation':
        inputs['size'] = np.array(image.shape[:2], np.int64)
    return inputs, small.shape[:2]


def draw_boxes(path, image, found, size, about, least):
    """Print the boxes of a score, and draw them and their masks."""
    classes = dict(enumerate(about['classes']))  # may lack some
    ratio = [image.shape[i] / size[i] for i in (1, 0, 1, 0)]
    for i in np.flatnonzero(found['scores'] >= least):
        box, label = found['boxes'][i] * ratio, found['labels'][i]
        name = str(classes.get(label, label))
        print(f'{path}: {name} {found["scores"][i]:.3f}', *(f'{n:.1f}' for n in box))
        if 'masks' in found:
            inside = paste(found['masks'][i], box, image.shape) >= about['mask_threshold']
            image[inside] = image[inside] // 2 + np.uint8((0, 90, 120))
        x1, y1, x2, y2 = (int(n) for n in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 180, 240), 2)
        cv2.putText(image, name, (x1, y1 - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 180, 240))


def loaded(path):
    """The model of a file, see `opened`, and what `mmswinv2 export` has written about it."""
    try:
        run, about = opened(path)
        about = json.loads(about)
    except Exception as error:  # those of a runtime for what is no model are of many classes
        raise SystemExit(f'{path} is no file of mmswinv2 export: {error}') from error
    if about['task'] == 'video classification':
        raise SystemExit(f'{path} is for videos, and pictures are run here')
    if about['channels'] != 3:
        raise SystemExit(f'{path} is for {about["channels"]} channels, and pictures have 3')
    return run, about


def outputs_of(images, folder):
    """The file to write for each picture; no two are the same, and none is a picture given."""
    outs = {}
    for path in images:
        stem = Path(path).stem
        tries = (f'{stem}_{i}' if i > 1 else stem for i in itertools.count(1))
        outs[path] = next(o for n in tries if (o := folder / f'{n}.png') not in outs.values())
    written = {out.resolve() for out in outs.values()}
    for path in images:
        if Path(path).resolve() in written:
            raise SystemExit(f'{path} would be written over; name another --out-dir')
    return outs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model')
    parser.add_argument('images', nargs='+')
    parser.add_argument('--score', type=float, default=0.3, help='least score of a box (0.3)')
    parser.add_argument('--out-dir', default='outputs')
    args = parser.parse_args()
    run, about = loaded(args.model)
    classes = dict(enumerate(about['classes']))  # may lack some
    outs = dict.fromkeys(args.images)
    if about['task'] != 'classification':
        folder = Path(args.out_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f'--out-dir {folder}: {error.strerror}') from error
        outs = outputs_of(args.images, folder)
    flags = cv2.IMREAD_COLOR
    if not about.get('exif_orientation', True):  # files of 0.7.2 and before do not tell
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    for path, out in outs.items():
        image = cv2.imread(path, flags)  # B, G, R, as the files of `mmswinv2 export` take them
        if image is None:
            raise SystemExit(f'{path} is no picture')
        inputs, size = inputs_of(image, about)
        found = run(inputs)
        if about['task'] == 'classification':
            best = found['scores'][0].argmax()
            print(f'{path}: {classes.get(best, best)} {found["scores"][0][best]:.3f}')
        elif about['task'] == 'segmentation':
            labels = found['labels'][0]
            write(out, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
        else:
            draw_boxes(path, image, found, size, about, args.score)
            write(out, image)


if __name__ == '__main__':
    main()
