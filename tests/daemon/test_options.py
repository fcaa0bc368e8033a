"""What the options accept, and what becomes of it. No error shows a secret."""

import os

import click
import pytest

from benchmarkai.daemon.options import (
    COMMON,
    file_option,
    pairs_option,
    secret_files,
    secret_option,
    url_option,
    user_option,
)

OPTIONS = [
    url_option("http://localhost:1", "The server."),
    user_option(),
    secret_option("--password", "the password"),
    secret_option("--token", "the token", is_ascii=True),
    *COMMON,
]


def make_context(*arguments):
    command = click.Command("test", params=OPTIONS)
    return command.make_context("test", [str(argument) for argument in arguments])


def parse(*arguments):
    return make_context(*arguments).params


def error_of(*arguments):
    """Return the message of the usage error."""
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


@pytest.fixture(params=["file", "variable"])
def give(request, tmp_path, monkeypatch):
    """A function that gives a secret in bytes: it returns the arguments, and the source's name."""

    def give(name, data):
        if request.param == "file":
            path = tmp_path / name
            path.write_bytes(data)
            return [f"--{name}-file", path], repr(str(path))
        variable = f"BAI_DAEMON_{name.upper()}"
        monkeypatch.setitem(os.environb, variable.encode(), data)
        return [], variable

    return give


@pytest.mark.parametrize("name", ["password", "token"])
@pytest.mark.parametrize(
    "data, secret",
    [
        (b"qwertz", "qwertz"),
        (b"qwertz\n", "qwertz"),
        (b" \tqwertz\r\n\n", "qwertz"),
        (b"\xef\xbb\xbfqwertz\r\n", "qwertz"),
        (b"\xef\xbb\xbf", ""),
        (b"a b:c~!", "a b:c~!"),
        (b"", ""),
    ],
)
def test_a_secret_is_one_line_without_its_surroundings(give, name, data, secret):
    arguments, _ = give(name, data)
    assert parse(*arguments)[name] == secret


def test_a_password_may_be_any_text(give):
    arguments, _ = give("password", "pä€😀 \xa0\ufeffx".encode())
    assert parse(*arguments)["password"] == "pä€😀 \xa0\ufeffx"


NOT_UTF_8 = "it is not UTF-8 text: write nothing but the secret, in UTF-8"
NOT_A_LINE = (
    "it has a line break or another control character: write nothing but the secret, on one line"
)
NOT_ASCII = "it has a character that is not printable ASCII: copy the secret again"


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("password", b"qwertz\xff", NOT_UTF_8),
        ("password", b"qw\xed\xa0\x80ertz", NOT_UTF_8),  # a surrogate
        ("password", b"\xff\xfeqwertz", NOT_UTF_8),
        ("token", b"qwertz\xe4", NOT_UTF_8),
        ("password", b"qw\nertz", NOT_A_LINE),
        ("password", b"qw\rertz", NOT_A_LINE),
        ("password", b"qw\tertz", NOT_A_LINE),
        ("password", b"qw\x1b[0mertz", NOT_A_LINE),
        ("password", b"qw\x7fertz", NOT_A_LINE),
        ("password", "qw\x85ertz".encode(), NOT_A_LINE),
        ("password", "qw\u2028ertz".encode(), NOT_A_LINE),
        ("token", b"qw\nertz", NOT_A_LINE),
        ("token", "qwertzä".encode(), NOT_ASCII),
        ("token", "qw\u200bertz".encode(), NOT_ASCII),
    ],
)
def test_a_secret_that_cannot_be_sent_is_rejected_without_showing_it(give, name, data, message):
    arguments, source = give(name, data)
    error = error_of(*arguments)
    assert error == f"Invalid value for {source}: {message}"
    assert "qw" not in error
    assert "ertz" not in error


def test_a_secret_with_a_nul_is_rejected(tmp_path):
    (tmp_path / "file").write_bytes("qwertz".encode("utf-16-le"))  # no variable can hold it
    assert NOT_A_LINE in error_of("--password-file", tmp_path / "file")


@pytest.mark.parametrize(
    "path, message",
    [
        ("/none", "'/none': No such file or directory"),
        ("/", "'/': Is a directory"),
        ("", "'': No such file or directory"),
        ("/proc/self/mem", "'/proc/self/mem': Input/output error"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(path, message, monkeypatch):
    monkeypatch.setenv("BAI_DAEMON_PASSWORD", "qwertz")
    assert message in error_of("--password-file", path)


def test_the_absolute_path_of_the_file_with_a_secret_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("qwertz")
    context = make_context("--token-file", "file")
    assert secret_files(context) == {"token": str(tmp_path / "file")}


def test_a_secret_may_come_from_stdin(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("qwertz\n")
    with open(tmp_path / "file") as file:
        monkeypatch.setattr("sys.stdin", file)
        context = make_context("--token-file", "-")
    assert context.params["token"] == "qwertz"
    assert secret_files(context) == {"token": "-"}


@pytest.mark.parametrize("user", ["me", "größe", "me@example.com", "a b"])
def test_a_user_may_be_any_text_that_basic_authentication_can_express(user, monkeypatch):
    assert parse("--user", user)["user"] == user
    monkeypatch.setenv("BAI_DAEMON_USER", user)
    assert parse()["user"] == user


NOT_A_USER = (
    "it has a colon or a control character, which Basic authentication cannot express; see "
    "--password-file for the password"
)


@pytest.mark.parametrize(
    "user, message",
    [
        ("", "it is empty"),
        ("a:b", NOT_A_USER),
        ("a\nb", NOT_A_USER),
        ("a\x7f", NOT_A_USER),
        ("a\x80", NOT_A_USER),
        ("a\udcff", r"'a\udcff' is not UTF-8"),
    ],
)
def test_a_user_that_basic_authentication_cannot_express_is_rejected(user, message):
    error = error_of("--user", user)
    assert message in error
    assert "a:b" not in error


@pytest.mark.parametrize(
    "url, parsed",
    [
        ("http://h", "http://h"),
        ("https://h:8086/", "https://h:8086"),
        ("http://[::1]:8086/a/b//", "http://[::1]:8086/a/b"),
    ],
)
def test_a_url_may_have_a_port_and_a_path(url, parsed):
    assert parse("--url", url)["url"] == parsed


CREDENTIALS = "leave out the user and the password: --help shows their options"
QUERY = "leave out what follows the ? or #: a path is appended to the URL"


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://h:8086/?u=a&p=secret", QUERY),
        ("http://h?secret", QUERY),
        ("http://h/#secret", QUERY),
        ("h:8086/?p=secret", QUERY),
        ("http://me:secret@h", CREDENTIALS),
        ("http://me:se/cret@h", CREDENTIALS),
        ("http://me:se//cret@h", CREDENTIALS),
        ("http://me:se?cret@h", CREDENTIALS),
        ("http://me:se#cret@h", CREDENTIALS),
        ("me:secret@h", CREDENTIALS),
        ("localhost", "'localhost' starts with neither http:// nor https://"),
    ],
)
def test_a_url_without_a_place_for_a_path_is_rejected_without_showing_secrets(
    url, message, monkeypatch
):
    for arguments in (["--url", url], []):
        error = error_of(*arguments)
        assert message in error
        assert "cret" not in error
        monkeypatch.setenv("BAI_DAEMON_URL", url)


def test_all_labels_are_kept():
    labels = parse("--label", "run=42", "--label", "flags=a=b", "--label", "größe= ")["label"]
    assert labels == {"run": "42", "flags": "a=b", "größe": " "}


@pytest.mark.parametrize(
    "labels, message",
    [
        (["run"], "'run' is not NAME=VALUE"),
        (["run="], "'run=' is not NAME=VALUE"),
        (["=42"], "'=42' is not NAME=VALUE"),
        (["a=\udcff"], r"'a=\udcff' is not UTF-8"),
        (["a=1", "b=1", "a=1"], "'a' is given twice"),
    ],
)
def test_a_label_without_one_name_and_one_value_is_rejected(labels, message):
    assert message in error_of(*[word for label in labels for word in ("--label", label)])


SIZES = ["--spool-limit", "--refused-limit"]


@pytest.mark.parametrize("option", SIZES)
@pytest.mark.parametrize(
    "text, size",
    [
        ("1", 1),
        ("1000", 1000),
        ("1K", 1024),
        ("3k", 3 * 1024),
        ("500M", 500 * 1024**2),
        ("2G", 2 * 1024**3),
    ],
)
def test_a_size_is_in_bytes_or_has_a_unit(option, text, size):
    assert parse(option, text)[option[2:].replace("-", "_")] == size


@pytest.mark.parametrize("option", SIZES)
@pytest.mark.parametrize("text", ["", "0", "0K", "-1", "K", "1T", "1.5M", "1KK"])
def test_what_is_no_size_is_rejected(option, text):
    error = error_of(option, text)
    assert f"{text!r} is not a size: write bytes, such as 500M or 2G" in error


@pytest.mark.parametrize("text, mode", [("0622", 0o622), ("200", 0o200), ("777", 0o777)])
def test_a_mode_is_octal(text, mode):
    assert parse("--fifo-mode", text)["fifo_mode"] == mode


@pytest.mark.parametrize("text", ["", "0", "177", "1000", "688", "-622", "u=rw"])
def test_a_mode_that_no_pipe_can_have_or_that_its_owner_cannot_write_to_is_rejected(text):
    error = error_of("--fifo-mode", text)
    assert f"{text!r} is not a file mode: write it in octal, such as 0622" in error


@pytest.mark.parametrize(
    "option, least, below",
    [
        ("--batch-size", 1, 0),
        ("--flush-interval", 0.001, 0.0009),
        ("--shutdown-timeout", 0, -0.1),
        ("--status-interval", 0, -0.1),
    ],
)
def test_a_number_may_be_as_small_as_makes_sense(option, least, below):
    assert parse(option, least)[option[2:].replace("-", "_")] == least
    assert f"{below} is not in the range" in error_of(option, below)


def test_metrics_may_wait_for_a_batch_to_fill_for_up_to_an_hour():
    assert parse("--flush-interval", 3600)["flush_interval"] == 3600
    assert "3600.1 is not in the range" in error_of("--flush-interval", 3600.1)


def test_each_option_has_a_default():
    found = {key: value for key, value in parse().items() if value is not None}
    assert found == {
        "url": "http://localhost:1",
        "command": (),
        "fifo": "/tmp/benchmark-ai-fifo",
        "fifo_mode": 0o622,
        "label": {},
        "no_name_labels": False,
        "time_step": 0,
        "spool_limit": 1024**3,
        "refused_limit": 64 * 1024**2,
        "retry_refused": False,
        "batch_size": 1000,
        "flush_interval": 1,
        "shutdown_timeout": 8,
        "status_interval": 60,
        "log_level": "info",
    }


@pytest.mark.parametrize(
    "text, step",
    [("0", 0), ("1ns", 1), ("1us", 1000), ("1ms", 10**6), ("20ms", 20 * 10**6), ("1s", 10**9)],
)
def test_a_time_step_is_a_time_with_a_unit(text, step):
    assert parse("--time-step", text)["time_step"] == step


@pytest.mark.parametrize(
    "text", ["1", "ms", "0ms", "-1ms", "1.5ms", "1 ms", "1m", "1001ms", "2s", "1sm", "x", "²ms"]
)
def test_what_is_no_time_step_is_a_usage_error(text):
    error = error_of("--time-step", text)
    assert f"{text!r} is not a time of up to 1s: write 1ms, or 0 for none" in error


# Pairs and files


@pytest.fixture
def pairs_of():
    """A function that returns the pairs of an option for them."""

    def check(pairs):
        if "bad" in pairs:
            raise click.BadParameter("it has something bad")

    def call(*arguments):
        command = click.Command("test", params=[pairs_option("--pair", "A pair.", check)])
        return command.make_context("test", list(arguments)).params["pair"]

    return call


def test_pairs_may_be_repeated(pairs_of):
    assert pairs_of() == {}
    assert pairs_of("--pair", "a=b=c d", "--pair=e= f") == {"a": "b=c d", "e": " f"}


def test_pairs_in_a_variable_are_on_lines(pairs_of, monkeypatch):
    monkeypatch.setenv("BAI_DAEMON_PAIR", "a=b c\n\nd=e\n")
    assert pairs_of() == {"a": "b c", "d": "e"}


@pytest.mark.parametrize(
    "word, message",
    [("a", "'a' is not NAME=VALUE"), ("=a", "'=a' is not NAME=VALUE"), ("bad=1", "something bad")],
)
def test_bad_pairs_are_a_usage_error(pairs_of, word, message):
    with pytest.raises(click.BadParameter) as caught:
        pairs_of("--pair", word)
    assert message in caught.value.format_message()


def test_the_path_of_a_file_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    command = click.Command("test", params=[file_option("--file", "A file.")])
    assert command.make_context("test", ["--file=file"]).params["file"] == str(tmp_path / "file")
    assert command.make_context("test", []).params["file"] is None
    with pytest.raises(click.BadParameter):
        command.make_context("test", ["--file=none"])
