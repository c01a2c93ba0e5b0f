"""`python -m edge_siamese`: the same as the command `edge-siamese`."""

import sys

from edge_siamese.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
