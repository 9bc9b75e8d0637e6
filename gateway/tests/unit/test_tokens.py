"""Only a token that this gateway has signed is valid."""

import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any
from unittest.mock import Mock, patch

import jwt
import pytest
import yaml
from hypothesis import example, given, settings, strategies as st
from nameko.cli.main import setup_yaml_parser
from nameko.exceptions import ConfigurationError

from gateway.tokens import Tokens

SECRET = "a secret of more than 32 characters, for tests"
USER = str(uuid.uuid4())


def make(**settings: Any) -> Tokens:
    """Return Tokens with these settings."""
    config = {"TOKEN_SECRET": SECRET, "TOKEN_LIFETIME_S": 3600, **settings}
    tokens = Tokens()
    tokens.container = Mock(config=config)
    tokens.check()
    return tokens


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return an Authorization header with any token."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    wanted = {"iss": "shop", "sub": USER, "exp": expires, **claims}
    token = jwt.encode(
        {name: v for name, v in wanted.items() if v is not None}, secret, algorithm
    )
    return f"Bearer {token}"


def test_an_issued_token_names_its_user() -> None:
    tokens = make()
    issued = tokens.issue(USER)
    assert issued["token_type"] == "Bearer"
    assert issued["expires_in"] == 3600
    assert tokens.user_id(f"Bearer {issued['access_token']}") == USER
    assert tokens.user_id(f"bearer {issued['access_token']}") == USER


def test_a_well_formed_token_is_valid() -> None:
    assert make().user_id(signed()) == USER  # otherwise the next test proves nothing


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b.c",
        "Basic dXNlcjpwYXNz",
        signed().replace("Bearer ", ""),
        signed().replace("Bearer ", "Token "),
        signed()[:-2],
        signed() + "x",
        f"{signed()}, {signed()}",
        f"Bearer  {signed()[7:]} x",
        signed(secret="another key of more than 32 characters, for tests"),
        signed(algorithm="none", secret=""),
        signed(algorithm="HS512", secret=SECRET * 2),
        signed(exp=datetime.now(UTC) - timedelta(seconds=1)),
        signed(exp=None),
        signed(iss="elsewhere"),
        signed(iss=None),
        signed(sub=None),
        signed(sub="admin"),
        signed(sub=USER.upper()),
        signed(sub=f"{USER}\n"),
        signed(nbf=datetime.now(UTC) + timedelta(hours=1)),
        "Bearer \xff\xfe",
    ],
)
def test_any_other_token_is_invalid(header: str | None) -> None:
    assert make().user_id(header) is None


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_header_breaks_the_gateway(text: str) -> None:
    assert make().user_id(f"Bearer {text}") is None


def test_a_token_expires_after_its_lifetime() -> None:
    tokens = make(TOKEN_LIFETIME_S=0.000001)
    assert tokens.user_id(f"Bearer {tokens.issue(USER)['access_token']}") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKEN_SECRET", None), ("TOKEN_SECRET", "short"), ("TOKEN_SECRET", 5)]
    + [
        ("TOKEN_LIFETIME_S", value)
        for value in (None, 0, -1, "x", float("nan"), float("inf"), 1e300)
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is"):
        make(**{name: value})


# Cached tokens


@pytest.fixture
def checks(monkeypatch) -> list[str]:
    """Record the tokens whose signatures are verified."""
    checked: list[str] = []
    decode = jwt.decode
    monkeypatch.setattr(
        jwt,
        "decode",
        lambda token, *a, **k: checked.append(token) or decode(token, *a, **k),
    )
    return checked


def test_a_valid_token_is_verified_once(checks) -> None:
    tokens, header = make(), signed()
    assert [tokens.user_id(header) for _ in range(3)] == [USER] * 3
    assert tokens.user_id(header.replace("Bearer", "bearer")) == USER
    assert len(checks) == 1


def test_a_cached_token_expires(checks, monkeypatch) -> None:
    tokens, header = make(), signed(exp=datetime.now(UTC) + timedelta(hours=1))
    assert tokens.user_id(header) == USER
    monkeypatch.setattr("gateway.tokens.time", lambda: time() + 3601)
    assert tokens.user_id(header) is None
    assert len(checks) == 1


def test_a_forged_token_is_never_cached(checks) -> None:
    tokens, good = make(), signed()
    forged = [
        signed(secret=SECRET[::-1]),
        f"{good}x",
        signed(sub="admin"),
        signed(exp=None),
        good[:-9],
    ]
    assert tokens.user_id(good) == USER
    for header in forged * 2:
        assert tokens.user_id(header) is None
    assert len(checks) == 1 + 2 * len(forged)
    assert tokens._verified.cache_info().currsize == 1


def test_the_cache_is_bounded(checks, monkeypatch) -> None:
    monkeypatch.setattr("gateway.tokens.MAX_CACHED", 3)
    tokens, headers = make(), [signed(jti=str(n)) for n in range(5)]
    assert [tokens.user_id(header) for header in headers * 2] == [USER] * 10
    assert tokens._verified.cache_info().currsize == 3
    assert len(checks) > 5


def test_the_cache_belongs_to_one_key(checks) -> None:
    header = signed()
    assert make().user_id(header) == USER
    assert make(TOKEN_SECRET=SECRET[::-1]).user_id(header) is None


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=32))
@example("%SECRET that YAML would cut off #here")
@example("${HOME} * & ! | > ' \" { [ ] } , @ ` ~")
@example("12345678901234567890123456789012")
@example(" spaces of both ends are part of it ")
def test_a_secret_is_read_unchanged(secret: str) -> None:
    """Through config.yaml, as Nameko reads it."""
    setup_yaml_parser()
    with patch.dict(os.environ, TOKEN_SECRET=secret):
        config = yaml.safe_load(Path("config.yaml").read_text())
    assert make(**config).secret == secret


@pytest.mark.parametrize(
    "secret",
    [
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ",
        "a byte that is not UTF-8: \udcff, and 32 characters",
    ],
)
def test_a_secret_that_cannot_sign_is_rejected_at_the_start(secret: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^TOKEN_SECRET is wrong: it can't sign tokens$"
    ):
        make(TOKEN_SECRET=secret)


@pytest.mark.parametrize("secret", ["", None, "short"])
def test_a_missing_secret_is_rejected_with_a_command_that_makes_one(
    secret: str | None,
) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"^TOKEN_SECRET is .*: make one with `openssl rand -hex 32`$",
    ):
        make(TOKEN_SECRET=secret)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    tokens = make(TOKEN_SECRET="", TOKEN_SECRET_FILE=str(tmp_path / "secret"))
    assert tokens.user_id(signed()) == USER
