"""Runs the command line as ``python -m lit_vlm``."""

import sys

from lit_vlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
