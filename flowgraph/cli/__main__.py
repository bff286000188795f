"""``python -m flowgraph.cli`` is the ``flowgraph`` command."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
