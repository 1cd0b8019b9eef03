"""The program as a module: `python -m identitydp_jax`."""

import sys

from identitydp_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
