"""Merge the adapters of a LoRA training into plain weights.

The file that is written has the keys and, to rounding, the answers of a model without adapters: it
is for the config without model.backbone.lora, for export and for other programs.
"""

from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmswinv2 import hosts
from mmswinv2.checkpoints import fetch, write_checkpoint
from mmswinv2.core import find_lora, merge_lora
from mmswinv2.core.lora import is_adapter
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import CheckpointError, UserError, report_user_errors
from mmswinv2.files import check_not_source
from mmswinv2.options import ArgumentParser, add_config_options


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the config of the training, with model.backbone.lora')
    parser.add_argument('checkpoint', help='a checkpoint of the training')
    parser.add_argument('out', help='the .pth file to write')
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    source = fetch(args.checkpoint)
    check_not_source(args.out, source, 'merge')
    cfg = config_with_options(args.config, args.cfg_options)
    host = hosts.of(cfg)
    host.apply()
    hosts.use_registries(cfg)
    model = MODELS.build(cfg.model)
    if not find_lora(model):
        raise UserError(
            f'{args.config} has no model.backbone.lora; give the config of the training that wrote '
            f'{args.checkpoint}'
        )
    checkpoint = load_checkpoint(model, str(source), 'cpu', strict=True)
    if not any(map(is_adapter, checkpoint['state_dict'])):
        raise CheckpointError(
            f'{args.checkpoint} has no adapters: there is nothing to merge, and it loads as it is '
            'in the config without model.backbone.lora'
        )
    count = merge_lora(model)
    meta = {key: value for key, value in checkpoint.get('meta', {}).items() if key != 'lora'}
    state = model.state_dict()
    write_checkpoint(dict(state_dict=state, meta=meta), args.out)
    print(f'{count} adapters merged; {len(state)} tensors written to {args.out}')


if __name__ == '__main__':
    with report_user_errors():
        main()
