"""`python -m xsample_jax.tools.inspect`: xsample_jax/reports/inspect.py."""

import sys

from xsample_jax.reports.inspect import main

if __name__ == "__main__":
    sys.exit(main())
