"""The speed of this project and of its peers, in tables: see docs/performance.md."""

import argparse
import os
import shutil
import sys
import tempfile

from benchmarks import call, daemon, emit, report, stream
from benchmarks.goals import GOALS, SUMMARY
from benchmarks.lab import ROOT, install
from benchmarks.processes import ENVIRONMENT
from benchmarks.versions import find_versions
from tests.helpers import kill_leftovers

# What each returns: figures by row and column, by the name of the table.
PARTS = {
    "call": lambda lab, scale: {"call": call.measure_calls(lab, scale)},
    "emit": lambda lab, scale: {"emit": emit.measure_emits(lab, scale)},
    "stream": lambda lab, scale: {"stream": stream.measure_streams(lab, scale)},
    "daemon": daemon.measure_daemon,
}
TABLES = {
    "call": call.TABLE,
    "emit": emit.TABLE,
    "stream": stream.TABLE,
    "rate": daemon.RATES,
    "load": daemon.LOADS,
    "idle": daemon.IDLE,
}
PAGES = ["README.md", os.path.join("docs", "performance.md")]


def run(lab, parts, scale=1.0):
    """Return the tables of these parts; scale: a smaller one takes less time, and is less exact."""
    figures = {}
    lab.find("valgrind", "apt-get install valgrind")
    for part in parts:
        print(f"measuring: {part}", file=sys.stderr, flush=True)
        figures.update(PARTS[part](lab, scale))
    return [
        report.show_summary(SUMMARY, TABLES, figures),
        report.show_goals(GOALS, TABLES, figures),
        *[TABLES[name].show(found) for name, found in figures.items()],
        report.show_versions(find_versions(lab.peers)),
    ]


def update(tables):
    for page in PAGES:
        path = os.path.join(ROOT, page)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(report.replace_tables(text, tables))


def main():
    parser = argparse.ArgumentParser(prog="bin/test -e bench --", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument(
        "--update", action="store_true", help=f"put the tables into {' and '.join(PAGES)}"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; give some of: {', '.join(PARTS)}")
    if arguments.update and arguments.parts:
        parser.error("--update needs all parts: some tables have rows of each")
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    folder = tempfile.mkdtemp()
    try:
        lab = install(folder)
        tables = run(lab, arguments.parts or list(PARTS))
    finally:
        kill_leftovers()
        shutil.rmtree(folder)
    print("\n".join(tables))
    for text in sorted(lab.missing):
        print(text)
    if arguments.update:
        update(tables)


if __name__ == "__main__":
    main()
