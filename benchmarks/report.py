"""Tables of what was measured, in Markdown."""

import re
import statistics
from typing import Callable, Dict, NamedTuple, Sequence


class Table(NamedTuple):
    """What is measured: its rows, some of which may be missing, and its columns.

    heading: that of the first column.
    columns: the unit of each, by its heading.
    """

    heading: str
    columns: Dict[str, Callable]
    rows: Sequence[str]

    def show(self, figures):
        """Return the table; figures: the values that were measured, by row and column."""
        rows = []
        for row in self.rows:
            cells = [
                show(figures.get((row, column)), unit) for column, unit in self.columns.items()
            ]
            if any(cells):
                rows.append([row, *cells])
        return markdown([self.heading, *self.columns], *rows)


def markdown(heading, *rows):
    lines = [f"| {' | '.join(cells)} |\n" for cells in (heading, *rows)]
    lines.insert(1, "|" + "---|" * len(heading) + "\n")
    return "".join(lines)


def show(values, unit):
    """Return the median of the values, and their quartiles if there are several."""
    if not values:
        return ""
    median = statistics.median(values)
    number, suffix = unit(median)
    if len(values) == 1:
        return number(median) + suffix
    low, _, high = map(number, statistics.quantiles(values, n=4, method="inclusive"))
    spread = "" if low == high else f" ({low} to {high})"
    return number(median) + suffix + spread


# A unit returns, for a value, the function that makes it and its quartiles into text, and what
# follows the text of the value.


def _scaled(value, units):
    factor, suffix = next((pair for pair in units if value >= pair[0]), units[-1])
    return lambda number: f"{number / factor:.3g}", suffix


def seconds(value):
    return _scaled(value, [(1, " s"), (1e-3, " ms"), (1e-6, " us")])


def count(value):
    return _scaled(value, [(1e6, " M"), (1e3, " k"), (1, "")])


def rate(value):
    return lambda number: f"{number:,.0f}", ""


def ratio(value):
    return lambda number: f"{number:.2f}", ""


def percent(value):
    return lambda number: f"{number * 100:.1f}", " %"


def mebibytes(value):
    return lambda number: f"{number:.1f}", " MiB"


def number(value):
    return lambda number: f"{number:.1f}", ""


def show_goals(goals, tables, figures):
    """Return the table of those goals for which something was measured.

    tables, figures: those of each table, by its name.
    """
    rows = []
    for goal, measured, unit in _find_measured(goals, tables, figures):
        worst = (min if goal.is_least else max)(measured, key=_median_of)
        is_met = (
            _median_of(worst) >= goal.bound if goal.is_least else _median_of(worst) <= goal.bound
        )
        where = f": {worst[0]}" if len(measured) > 1 else ""
        bound = ("at least " if goal.is_least else "at most ") + show([goal.bound], unit)
        rows.append([goal.claim, bound, show(worst[1], unit) + where, "yes" if is_met else "no"])
    return markdown(["goal", "wanted", "measured; of several, the worst", "met?"], *rows)


def show_summary(summary, tables, figures):
    """Return the table of the claims for which something was measured."""
    rows = []
    for claim, measured, unit in _find_measured(summary, tables, figures):
        if len(measured) == 1:
            shown = show(measured[0][1], unit)
        else:
            medians = sorted(map(_median_of, measured))
            shown = f"{show(medians[:1], unit)} to {show(medians[-1:], unit)}"
        rows.append([claim.claim, shown])
    return markdown(["work", "measured"], *rows)


def show_versions(versions):
    return markdown(["what", "version"], *map(list, versions.items()))


def _find_measured(claims, tables, figures):
    """Yield each claim of which rows were measured, (row, values) of each, and their unit."""
    for claim in claims:
        found = figures.get(claim.table, {})
        column = claim.column
        measured = [(row, found[row, column]) for row in claim.rows if (row, column) in found]
        if measured:
            yield claim, measured, tables[claim.table].columns[column]


def _median_of(pair):
    return statistics.median(pair[1])


def replace_tables(text, tables):
    """Return the text with these tables in place of those that have the same first line."""
    for table in tables:
        first = table.split("\n", 1)[0]
        pattern = re.compile(re.escape(first) + r"\n(?:\|.*\n)*")
        text = pattern.sub(lambda match: table, text)
    return text
