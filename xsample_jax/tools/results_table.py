"""`python -m xsample_jax.tools.results_table`: xsample_jax/reports/results.py."""

import sys

from xsample_jax.reports.results import main_table

if __name__ == "__main__":
    sys.exit(main_table())
