"""`python -m xsample_jax.tools.results_page`: xsample_jax/reports/results.py."""

import sys

from xsample_jax.reports.results import main_page

if __name__ == "__main__":
    sys.exit(main_page())
