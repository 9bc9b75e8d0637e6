"""Secrets are read from files. No error quotes a secret."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from nameko.exceptions import ConfigurationError

from chassis.secret_files import MAX_BYTES, read_secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\n\n", "secret\n"),
        (b"secret\r", "secret\r"),
        (b"\nsecret", "\nsecret"),
        (b" secret \n", " secret "),
        (b"x" * MAX_BYTES, "x" * MAX_BYTES),
    ],
)
def test_one_newline_at_the_end_is_removed(file, content, text) -> None:
    file.write_bytes(content)
    assert read_secret("X_FILE", str(file)) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1))
def test_any_other_text_is_unchanged(file, text) -> None:
    file.write_text(text)
    assert read_secret("X_FILE", str(file)) == text


def test_a_link_is_followed(file, tmp_path) -> None:
    """Kubernetes mounts a Secret as symbolic links."""
    (tmp_path / "data").write_text("secret")
    file.symlink_to("data")
    assert read_secret("X_FILE", str(file)) == "secret"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\r\n",
        b"secret\xff",
        b"secret\0",
        b"secret" * MAX_BYTES,
        "é".encode() * MAX_BYTES,
    ],
)
def test_an_invalid_secret_is_reported_but_not_quoted(file, content) -> None:
    file.write_bytes(content)
    assert "secret" not in error_line(file)


def error_line(file: Path) -> str:
    """Return the error's line without the path. It must name the variable."""
    with pytest.raises(ConfigurationError) as caught:
        read_secret("X_FILE", str(file))
    line = str(caught.value)
    assert line.startswith("X_FILE is wrong: ")
    assert len(line.splitlines()) == 1
    return line.replace(str(file), "")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "not a regular file"),
        (make_fifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (make_loop, "Too many levels"),
    ],
    ids=["missing", "folder", "fifo", "socket", "loop"],
)
def test_other_kinds_of_files_are_reported(
    file: Path, make: Callable[[Path], None], why: str
) -> None:
    make(file)
    assert why in error_line(file)


def test_a_device_is_reported() -> None:
    assert "not a regular file" in error_line(Path("/dev/zero"))


def test_a_file_without_read_permission_is_reported(file, monkeypatch) -> None:
    file.write_text("secret")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    # The tests may run as root, which can read all files.
    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in error_line(file)


def test_a_path_that_may_be_the_secret_is_not_shown() -> None:
    """A secret in base64 may begin with a slash."""
    with pytest.raises(
        ConfigurationError, match=r"^X_FILE is wrong: .*: No such file"
    ) as caught:
        read_secret("X_FILE", "/s3cret/base64==")
    assert "s3cret" not in str(caught.value)


def test_a_path_of_several_lines_is_reported_in_one(tmp_path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_secret("X_FILE", f"{tmp_path}/a\nb")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "path", ["secret", "amqp://shop:secret@host/", "./secret", " /secret"]
)
def test_a_relative_path_is_not_shown(path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^X_FILE is wrong: it must be the absolute path"
    ) as caught:
        read_secret("X_FILE", path)
    assert "secret" not in str(caught.value)
