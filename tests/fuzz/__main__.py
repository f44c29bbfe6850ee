"""Run the fuzzing; see the package's docstring. Exit status 1 where an input failed."""

import sys

from tests.fuzz.run import main

if __name__ == "__main__":
    sys.exit(main())
