"""python -m xsample_jax [--list=presets|encoders|evaluators|sources|configs]: lists the commands, or names."""

import sys

from xsample_jax.tools.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
