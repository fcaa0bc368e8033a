import sys

from benchmarkai.command import main

sys.exit(main())
