"""The lines of docs/completion.md make real shells complete both commands."""

import os
import pty
import re
import select
import sys

import pytest

from tests.helpers import BAI_EMIT, NOT_MEASURED, WAIT, is_installed, kill, read_text, run, start

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
READY = "ready> "
STARTUP_FILES = {
    "bash": (".bashrc", "source %s; PS1='%s'\n" % (BASH_COMPLETION, READY)),
    "zsh": (".zshrc", "autoload -Uz compinit && compinit; PROMPT='%s'\n" % READY),
}
CLEAR_LINE = b"\x15"  # Ctrl-U

# What a user types before each Tab, and what the word then is.
LINES = [
    [("bai-emit --fi", "--fifo"), ("./my", "./my-pipe"), ("--mode s", "stdout")],
    [("bai-daemon infl", "influxdb"), ("--ca", "--ca-file"), ("./my", "./my-pipe")],
    [("bai-daemon stdout --spool ./my", "./my-pipe"), ("-- ./my", "./my-pipe")],
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info < (3, 9), reason="bai-daemon needs Python 3.9"),
]


def set_up(shell, home):
    """Paste the lines for the shell into it, and return the environment of its user."""
    if not is_installed(shell):
        pytest.skip("%s is not installed" % shell)
    if shell == "bash" and not os.path.exists(BASH_COMPLETION):
        pytest.skip("bash-completion is not installed")
    env = dict(
        NOT_MEASURED,
        HOME=str(home),
        PATH=os.path.dirname(BAI_EMIT) + os.pathsep + os.environ["PATH"],
        TERM="dumb",
        XDG_CONFIG_HOME=str(home.join(".config")),
        XDG_DATA_HOME=str(home.join(".local", "share")),
        ZDOTDIR=str(home),
    )
    home.join("my-pipe").write("")
    if shell in STARTUP_FILES:
        name, text = STARTUP_FILES[shell]
        home.join(name).write(text)
    text = read_text("docs", "completion.md")
    (code,) = re.findall(r"^```%s\n(.*?)^```$" % shell, text, re.MULTILINE | re.DOTALL)
    assert run([shell, "-c", code], env=env, cwd=str(home)) == (0, "", "")
    return env


@pytest.mark.parametrize("shell", sorted(STARTUP_FILES))
def test_tab_completes_each_word(shell, tmpdir):
    env = set_up(shell, tmpdir)
    terminal, own_end = pty.openpty()
    streams = {"stdin": own_end, "stdout": own_end, "stderr": own_end}
    process = start([shell, "-i"], env, cwd=str(tmpdir), **streams)
    os.close(own_end)
    try:
        wait_for(terminal, READY)
        for line in LINES:
            for typed, completed in line:
                os.write(terminal, (typed + "\t").encode())
                wait_for(terminal, completed + " ")  # Tab has added the space too
            os.write(terminal, CLEAR_LINE)
    finally:
        kill(process)
        os.close(terminal)


def wait_for(terminal, text):
    shown = ""
    while text not in shown:
        assert select.select([terminal], [], [], WAIT)[0], shown
        shown += os.read(terminal, 4096).decode()


def test_fish_completes_each_word(tmpdir):
    env = set_up("fish", tmpdir)
    for line in LINES:
        done = ""
        for typed, completed in line:
            command = "complete -C '%s'" % (done + typed)
            result = run(["fish", "-c", command], env=env, cwd=str(tmpdir))
            assert [word.partition("\t")[0] for word in result.out.splitlines()] == [completed]
            done = (done + typed).rpartition(" ")[0] + " " + completed + " "
