"""The start of bai-daemon, which tells older Pythons, and those without click, what it needs."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn  # noqa: F401


def run(program):
    # type: (str) -> NoReturn
    """Run bai-daemon, and exit with its exit code. program: how it was called, for messages."""
    if sys.version_info < (3, 9):
        sys.exit(
            "%s: Python 3.9 or newer is required; this is %d.%d"
            % ((program,) + sys.version_info[:2])
        )
    try:
        import click  # noqa: F401
    except ImportError:
        from benchmarkai.daemon.install import how_to_install

        sys.exit("%s: click is not installed: %s" % (program, how_to_install(["click>=8"])))
    from benchmarkai.daemon.cli import main

    main(program)


if __name__ == "__main__":
    run("python -m benchmarkai.daemon")
