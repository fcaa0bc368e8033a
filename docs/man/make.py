"""Write the man pages from the click commands: python -m docs.man.make

The pages are committed, because the package also installs on Pythons that cannot import bai-daemon.
"""

import inspect
import pathlib
import re
import textwrap

import click

from benchmarkai.command.options import bai_emit
from benchmarkai.daemon.backends import NAMES
from benchmarkai.daemon.cli import bai_daemon

FOLDER = pathlib.Path(__file__).parent

# groff would print some of these as typographic characters, which a shell does not understand.
ESCAPES = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",
        "'": r"\(aq",
        '"': r"\(dq",
        "`": r"\(ga",
        "^": r"\(ha",
        "~": r"\(ti",
    }
)

ENVIRONMENT = """Where an option names an environment variable, the variable sets it too. The option
takes precedence."""
PROXIES = """Backends that speak HTTP use the proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and
NO_PROXY name, in upper or lower case."""


def make_pages():
    """Return the text of each page by the name of its file."""
    return {
        "bai-emit.1": make_page(bai_emit, [ENVIRONMENT], "bai-daemon"),
        "bai-daemon.1": make_page(bai_daemon, [ENVIRONMENT, PROXIES], "bai-emit"),
    }


def make_page(command, environment, see_also):
    name, context = command.name, make_context(command)
    summary, *rest = paragraphs = split(command.help)
    # A paragraph that ends with a colon introduces the example after it.
    examples = [
        text
        for text, following in zip(rest, [*rest[1:], ""])
        if is_code(text) or (text.endswith(":") and is_code(following))
    ]
    lines = [
        f'.TH {name.upper()} 1 "" benchmarkai "User Commands"',
        # No hyphens in variables and URLs, which are copied from the page.
        ".nh",
        ".ad l",
        ".SH NAME",
        rf"{escape(name)} \- {escape(summary[0].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        rf"\fB{escape(name)}\fR {escape(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *render([text for text in paragraphs if text not in examples]),
        ".SH OPTIONS",
        *render_options(records(command, context)),
    ]
    if isinstance(command, click.Group):
        lines += render_subcommands(command, context)
    lines += [".SH ENVIRONMENT", *render(environment)]
    lines += [".SH EXIT STATUS", *render_exit_codes(command.epilog)]
    lines += [".SH EXAMPLES", *render(examples)]
    lines += [".SH SEE ALSO", rf"\fB{escape(see_also)}\fR(1)"]
    return "\n".join(lines) + "\n"


def render_subcommands(group, context):
    """Return the sections of the subcommands. An option that most backends have is shown once."""

    def find(names):
        commands = {name: group.get_command(context, name) for name in names}
        return {
            name: (command, records(command, make_context(command, context)))
            for name, command in commands.items()
        }

    backends, others = find(NAMES), find(group.commands)  # not the backends of other packages
    users = {}
    for name, (_, options) in backends.items():
        for option in options:
            users.setdefault(option, []).append(name)
    shared = {}  # the options of most backends, by the backends that do not have them
    for option, names in users.items():
        if len(names) > len(backends) / 2:
            missing = tuple(name for name in backends if name not in names)
            shared.setdefault(missing, []).append(option)
    in_shared = {option for options in shared.values() for option in options}
    lines = []
    for missing, options in sorted(shared.items(), key=lambda item: len(item[0])):
        title = "Options of all backends" + " except " * bool(missing) + ", ".join(missing)
        lines += [f'.SS "{escape(title)}"', *render_options(options)]
    for title, commands in (("BACKENDS", backends), ("OTHER COMMANDS", others)):
        lines.append(f".SH {title}")
        for name, (command, options) in commands.items():
            own = [option for option in options if option not in in_shared]
            lines += [f".SS {escape(name)}", *render(split(command.help)), *render_options(own)]
    return lines


def make_context(command, parent=None):
    return click.Context(command, parent, command.name, **command.context_settings)


def records(command, context):
    """Return (names, description) of each option, as --help shows them."""
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return [option.get_help_record(context) for option in options]


def split(text):
    """Return the paragraphs of a help text."""
    return inspect.cleandoc(text).split("\n\n")


def is_code(paragraph):
    return paragraph.startswith("\b")


def render(paragraphs):
    lines = []
    for paragraph in paragraphs:
        if is_code(paragraph):
            # Not .EX and .EE, which switch the hyphens of groff on again.
            lines += [".PP", ".nf", *map(escape, paragraph.splitlines()[1:]), ".fi"]
        else:
            lines += [".PP", *fill(paragraph)]
    return lines[1:]  # a heading is before the first paragraph


def render_options(options):
    lines = []
    for names, description in options:
        names, metavar = re.match(r"((?:, |-[\w-]+)+) ?(.*)", names).groups()
        bold = r"\fR, \fB".join(map(escape, names.split(", ")))
        lines += [".TP", rf"\fB{bold}\fR {escape(metavar)}".rstrip()]
        # The description, and then what click knows about the option, in brackets.
        for part in re.split(r"  (?=\[)", description):
            lines += fill(part)
    return lines


def render_exit_codes(epilog):
    lines, rest = [], []
    for line in epilog.splitlines()[2:]:
        code = re.match(r" +(\d+)  +(.*)", line)
        if code:
            lines += [".TP", code.group(1), *fill(code.group(2))]
        else:
            rest.append(line.strip())
    return [*lines, ".PP", *fill(" ".join(rest))]


def fill(text):
    lines = textwrap.wrap(text, 75, break_long_words=False, break_on_hyphens=False)
    return map(escape, lines)


def escape(text):
    text = text.translate(ESCAPES)
    return r"\&" + text if text.startswith(".") else text


if __name__ == "__main__":
    for name, text in make_pages().items():
        (FOLDER / name).write_text(text)
