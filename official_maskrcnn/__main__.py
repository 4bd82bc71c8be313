"""`python3 -m official_maskrcnn`: the same as the command `official-maskrcnn`."""

import sys

from official_maskrcnn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
