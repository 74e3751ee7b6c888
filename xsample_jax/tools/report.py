"""`python -m xsample_jax.tools.report`: xsample_jax/reports/report.py."""

import sys

from xsample_jax.reports.report import main

if __name__ == "__main__":
    sys.exit(main())
