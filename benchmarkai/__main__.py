import sys

from benchmarkai.command.main import main

sys.exit(main())
