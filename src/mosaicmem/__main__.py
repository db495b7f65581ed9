"""`python -m mosaicmem` is the `mosaicmem` command."""

import sys

from mosaicmem.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
