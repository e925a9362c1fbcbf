"""`python -m diagcot` is the command `diagcot`."""

import sys

from diagcot.cli.main import main

sys.exit(main())
