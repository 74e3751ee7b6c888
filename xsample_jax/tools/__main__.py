"""python -m xsample_jax.tools: as `python -m xsample_jax`."""

import sys

from xsample_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
