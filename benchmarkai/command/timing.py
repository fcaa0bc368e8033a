"""bai-emit --time: run a command, and measure how long it takes."""

import signal

from benchmarkai._compat import monotonic
from benchmarkai.child import PASSED_SIGNALS, Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Sequence, Tuple  # noqa: F401


def run_and_measure(command):
    # type: (Sequence[str]) -> Tuple[int, float]
    """Run the command to its end; return its exit code, as a shell gives it, and its seconds.

    Signals are passed on to it meanwhile, except those that this process ignores.

    Raises child.CommandError.
    """
    signals = []  # type: List[int]
    children = []  # type: List[Child]

    def handle(number, frame):
        # type: (int, Any) -> None
        if children:
            children[0].send(number)
        else:
            signals.append(number)

    handlers = [(number, signal.getsignal(number)) for number in PASSED_SIGNALS]
    handlers = [pair for pair in handlers if pair[1] is not signal.SIG_IGN]
    for number, _ in handlers:
        signal.signal(number, handle)
    try:
        start = monotonic()
        early = len(signals)  # those before the command was there
        children.append(Child(command))
        for index, received in enumerate(signals):
            children[0].send(received, early=index < early)
        code = children[0].wait()
        return code, monotonic() - start
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
