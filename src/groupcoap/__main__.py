"""`python -m groupcoap`: the same as the program `groupcoap`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
