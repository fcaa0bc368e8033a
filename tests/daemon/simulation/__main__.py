import logging
import sys

from tests.daemon.simulation.check import check_seed

logging.getLogger("bai-daemon").addHandler(logging.StreamHandler())
logging.getLogger("bai-daemon").setLevel("DEBUG")
check_seed(int(sys.argv[1]))
