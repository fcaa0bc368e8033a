"""The benchmarks measure, and docs/performance.md and the README show what they print."""

import os
import re
import shutil
import sys

import pytest

from benchmarks import daemon, processes, report, run, stream
from benchmarks.goals import GOALS, SUMMARY, Claim, Goal
from benchmarks.lab import Lab
from tests.helpers import is_installed, read_text

# Peers that few machines have.
RARE = re.compile("otel-cli|Telegraf")


def first_cells(text, table):
    """Return the first cells of the only table in the text with the heading of this one."""
    heading = table.split("\n", 1)[0]
    ((rows),) = re.findall(re.escape(heading) + r"\n[|-]+\n((?:\|.*\n)*)", text)
    return [re.match(r"\| (.*?) \|", row).group(1) for row in rows.splitlines()]


def without_rare(rows):
    return [row for row in rows if not RARE.search(row)]


@pytest.mark.parametrize("name", run.TABLES)
def test_the_page_has_the_rows_of_every_table(name):
    table = run.TABLES[name]
    shown = first_cells(read_text("docs", "performance.md"), table.show({}))
    assert without_rare(shown) == without_rare(table.rows)


def test_the_page_has_every_goal():
    goals = report.show_goals([], {}, {})
    assert first_cells(read_text("docs", "performance.md"), goals) == [goal.claim for goal in GOALS]


def test_the_readme_has_what_matters_to_users():
    summary = report.show_summary([], {}, {})
    assert first_cells(read_text("README.md"), summary) == [claim.claim for claim in SUMMARY]


@pytest.mark.parametrize("claim", GOALS + SUMMARY, ids=lambda claim: claim.claim)
def test_a_claim_is_about_rows_and_a_column_that_exist(claim):
    table = run.TABLES[claim.table]
    assert claim.column in table.columns
    assert claim.rows and set(claim.rows) <= set(table.rows)


TABLE = report.Table(
    "program", {"time": report.seconds, "memory": report.mebibytes}, ["a", "b", "c"]
)


def test_a_table_shows_medians_with_quartiles_and_leaves_out_what_is_missing():
    figures = {
        ("a", "memory"): [8.04],
        ("c", "time"): [0.004, 0.001, 0.003, 0.002, 0.009],
        ("c", "memory"): [8.01, 8.02, 8.03],
    }
    assert TABLE.show(figures).splitlines() == [
        "| program | time | memory |",
        "|---|---|---|",
        "| a |  | 8.0 MiB |",
        "| c | 3 ms (2 to 4) | 8.0 MiB |",
    ]


@pytest.mark.parametrize(
    "unit, value, shown",
    [
        (report.seconds, 2.5, "2.5 s"),
        (report.seconds, 0.01, "10 ms"),
        (report.seconds, 2.5e-7, "0.25 us"),
        (report.count, 36.54e6, "36.5 M"),
        (report.count, 10840, "10.8 k"),
        (report.count, 999, "999"),
        (report.rate, 57226.4, "57,226"),
        (report.ratio, 0.997, "1.00"),
        (report.percent, 0.499, "49.9 %"),
        (report.number, 0.5, "0.5"),
    ],
)
def test_a_value_has_a_unit_and_a_few_digits(unit, value, shown):
    assert report.show([value], unit) == shown


def goals_for(figures, **options):
    goal = Goal("starts soon", "programs", "time", ["a", "b"], 0.002, **options)
    return report.show_goals([goal], {"programs": TABLE}, {"programs": figures}).splitlines()[2:]


def test_the_worst_row_decides_on_a_goal():
    figures = {("a", "time"): [0.001], ("b", "time"): [0.003], ("c", "time"): [0.005]}
    assert goals_for(figures) == ["| starts soon | at most 2 ms | 3 ms: b | no |"]
    assert goals_for(figures, is_least=True) == ["| starts soon | at least 2 ms | 1 ms: a | no |"]


def test_a_goal_is_met_at_its_bound():
    figures = {("a", "time"): [0.002]}
    assert goals_for(figures) == ["| starts soon | at most 2 ms | 2 ms | yes |"]
    assert goals_for(figures, is_least=True) == ["| starts soon | at least 2 ms | 2 ms | yes |"]


def test_a_goal_of_which_nothing_was_measured_is_left_out():
    assert goals_for({("c", "time"): [0.001]}) == []


def test_a_summary_of_several_rows_has_the_least_and_the_most():
    figures = {("a", "time"): [0.002], ("b", "time"): [0.001], ("c", "time"): [0.003]}
    one, three = Claim("one", "x", "time", ["a"]), Claim("three", "x", "time", TABLE.rows)
    shown = report.show_summary([one, three], {"x": TABLE}, {"x": figures}).splitlines()[2:]
    assert shown == ["| one | 2 ms |", "| three | 1 ms to 3 ms |"]


def test_a_claim_of_which_nothing_was_measured_is_left_out():
    assert report.show_summary([Claim("one", "x", "time", ["a"])], {"x": TABLE}, {}) == (
        report.show_summary([], {}, {})
    )


def test_an_update_replaces_the_tables_with_the_same_heading():
    old, new = (report.markdown(["program", "time"], ["a", time]) for time in ("1 ms", r"2 \1"))
    other = report.markdown(["program", "memory"], ["a", "8 MiB"])
    page = f"# Page\n\n{old}\nText.\n\n{other}"
    assert report.replace_tables(page, [new]) == f"# Page\n\n{new}\nText.\n\n{other}"


@pytest.mark.slow
def test_processes_calls_and_streams_are_measured_with_what_is_installed(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    rows = {"call": 3, "emit": 7, "stream": len(stream.TABLE.rows)}
    if is_installed("jq"):
        (programs / "jq").symlink_to(shutil.which("jq"))
        rows["call"] += 1
    monkeypatch.setenv("PATH", str(programs))
    lab = Lab(str(tmp_path), sys.executable)
    text = "\n".join(run.run(lab, rows, scale=0))
    for name, count in rows.items():
        assert len(first_cells(text, run.TABLES[name].show({}))) == count
    assert "valgrind is not installed: apt-get install valgrind" in lab.missing


@pytest.mark.slow
def test_the_daemon_is_measured(tmp_path):
    lab = Lab(str(tmp_path))
    (row,) = daemon.STDOUT
    figures = daemon.measure_rates(lab, 0, [row])
    assert list(figures) == [(row, column) for column in daemon.RATES.columns]
    assert all(values[0] > 0 for values in figures.values())


@pytest.mark.skipif(not is_installed("valgrind"), reason="valgrind is not installed")
def test_instructions_are_counted():
    found = processes.count_instructions({"true": processes.Command(["/bin/true"])})
    assert found["true"] > 10000


def test_the_instructions_of_one_are_those_without_the_start(tmp_path, monkeypatch):
    valgrind = tmp_path / "valgrind"
    valgrind.write_text("#!/bin/sh\necho Collected : $((1000 + 7 * $4)) >&2\n")
    valgrind.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(processes.ENVIRONMENT, "PATH", str(tmp_path))
    commands = {"loop": ["loop"], "other": ["other"]}
    found = processes.instructions_of_each(
        lambda number: {
            name: processes.Command([*command, str(number)]) for name, command in commands.items()
        },
        100,
    )
    assert found == {"loop": 7, "other": 7}


def test_what_is_measured_has_a_core_and_leaves_the_others_to_this_process():
    before = os.sched_getaffinity(0)
    program = "import os, sys; print(*os.sched_getaffinity(0), file=sys.stderr)"
    stderr = processes.run(processes.Command([sys.executable, "-c", program]))
    assert stderr.split() == [str(processes.MEASURED)]
    assert os.sched_getaffinity(0) == before


def test_the_settings_of_the_user_do_not_change_what_is_measured():
    assert "PATH" in processes.ENVIRONMENT
    assert not [name for name in processes.ENVIRONMENT if re.match("PYTHON|B(AI|ENCH)", name)]


def test_a_command_that_fails_is_not_measured():
    with pytest.raises(RuntimeError, match="exited with 1"):
        processes.measure(processes.Command(["/bin/false"]))


def test_a_process_is_measured_as_a_whole():
    usage = processes.measure(processes.Command(["/bin/sleep", "0.05"]))
    assert usage.cpu < 0.05 <= usage.seconds
