"""python -m xsample_jax COMMAND [--flags]: what the command xsample does."""

import sys

from xsample_jax.tools.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
