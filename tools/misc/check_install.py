#!/usr/bin/env python
"""`mmswinv2 doctor` as a script: what is installed, and how to mend what is broken."""

import sys

from mmswinv2.cli.doctor import main
from mmswinv2.errors import report_user_errors

if __name__ == '__main__':
    with report_user_errors():
        main(sys.argv[1:])
