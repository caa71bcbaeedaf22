"""`python -m guardtok` is `guardtok`."""

import sys

from guardtok.cli import main

if __name__ == "__main__":
    sys.exit(main())
