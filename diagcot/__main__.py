import sys

from diagcot.cli import main

sys.exit(main())
