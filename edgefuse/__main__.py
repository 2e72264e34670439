"""`python -m edgefuse`."""

from __future__ import annotations

import sys

from edgefuse.cli import main

if __name__ == "__main__":
    sys.exit(main())
