"""Turn a checkpoint folder of DeepSpeed's into one plain file.

The file has the float32 weights, the log's scalars and the meta data, and not the optimizer's
state. The tools and configs read such folders directly too; a plain file is smaller, and every
other program reads it.
"""

from mmswinv2.checkpoints import write_checkpoint
from mmswinv2.checkpoints.files import read_deepspeed_folder
from mmswinv2.errors import report_user_errors
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('src', help='the folder, e.g. work_dirs/run/iter_1000.pth')
    parser.add_argument('dst', help='the .pth file to write')
    return parser.parse_args()


def main():
    args = parse_args()
    checkpoint = read_deepspeed_folder(args.src)
    write_checkpoint(checkpoint, args.dst)
    print(f'{len(checkpoint["state_dict"])} tensors written to {args.dst}')


if __name__ == '__main__':
    with report_user_errors():
        main()
