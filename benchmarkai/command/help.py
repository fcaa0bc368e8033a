"""The help of bai-emit, with click and without it."""

from benchmarkai import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional  # noqa: F401

INSTALL_CLICK = "pip install click, or apt install python3-click"

HELP = """Publish metrics of a benchmark, as JSON, to stdout or to a named pipe.

\b
  $ bai-emit alexnet.latency=0.42
  {"alexnet.latency": 0.42}
  $ bai-emit alexnet.latency=0.42 alexnet.batchsize=16
  {"alexnet.latency": 0.42, "alexnet.batchsize": 16}
  $ echo '{"alexnet.latency": 0.42}' | bai-emit
  {"alexnet.latency": 0.42}
  $ ./my_benchmark | bai-emit          # one record per line, published as it arrives
  $ echo 'epoch 3, loss: 0.42' | bai-emit --pattern 'loss=loss: (\\S+)'
  {"loss": 0.42}
  $ bai-emit --time build.seconds jobs=4 -- make -j4
  {"build.seconds": 12.034127, "jobs": 4}

Without arguments, or with a single -, bai-emit reads records from stdin: JSON objects, or lines
of NAME=VALUE words. Names that start with "-" go after --.
"""

EPILOG = """\b
Exit codes:
  0    everything was published
  1    something could not be delivered: to the pipe, or to a closed or full stdout
  2    something in the arguments, options, variables or records was rejected
  130  Ctrl-C
With --time: that of the command, if it fails.
"""


def without_click(arguments):
    # type: (List[str]) -> Optional[str]
    """Return what --help or --version prints; None if the arguments have neither."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--version" in options:
        return "bai-emit %s\n" % __version__
    if "--help" not in options and "-h" not in options:
        return None
    text = (HELP + "\n" + EPILOG).replace("\b\n", "")  # which tells click not to wrap lines
    usage = "Usage: bai-emit [NAME=VALUE]...\n\n"
    return usage + text + "\nThe options need click: %s.\n" % INSTALL_CLICK
