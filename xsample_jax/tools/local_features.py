"""`python -m xsample_jax.tools.local_features`: xsample_jax/reports/local_features.py."""

import sys

from xsample_jax.reports.local_features import main

if __name__ == "__main__":
    sys.exit(main())
