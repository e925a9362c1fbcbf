import sys

from diagcot.cli.main import main

sys.exit(main())
