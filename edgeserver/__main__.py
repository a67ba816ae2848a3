"""`python -m edgeserver`, and the program `edgeserver`."""

import sys

from edgeserver.cli import main

if __name__ == "__main__":
    sys.exit(main())
