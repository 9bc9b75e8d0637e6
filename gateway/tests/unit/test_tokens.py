"""A token is taken only as this gateway signed it."""

import uuid
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any
from unittest.mock import Mock

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nameko.exceptions import ConfigurationError

from gateway.tokens import Tokens

SECRET = "a secret of more than 32 characters, for tests"
USER = str(uuid.uuid4())


def make(**settings: Any) -> Tokens:
    """Tokens with these settings."""
    config = {"TOKEN_SECRET": SECRET, "TOKEN_LIFETIME_S": 3600, "WEB_SERVER_ADDRESS": "0.0.0.0:1", **settings}
    tokens = Tokens()
    tokens.container = Mock(config=config)
    tokens.check()
    return tokens


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """An Authorization header with a token of one's own making."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    wanted = {"iss": "shop", "sub": USER, "exp": expires, **claims}
    token = jwt.encode({name: v for name, v in wanted.items() if v is not None}, secret, algorithm)
    return f"Bearer {token}"


def test_an_issued_token_says_whose_it_is() -> None:
    tokens = make()
    issued = tokens.issue(USER)
    assert issued["token_type"] == "Bearer"
    assert issued["expires_in"] == 3600
    assert tokens.user_id(f"Bearer {issued['access_token']}") == USER
    assert tokens.user_id(f"bearer {issued['access_token']}") == USER


def test_a_token_of_our_own_shape_is_taken() -> None:
    assert make().user_id(signed()) == USER  # or the refusals below would prove nothing


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
def test_a_token_that_is_not_ours_says_nothing(header: str | None) -> None:
    assert make().user_id(header) is None


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_header_breaks_the_gateway(text: str) -> None:
    assert make().user_id(f"Bearer {text}") is None


def test_a_token_ends_with_its_lifetime() -> None:
    tokens = make(TOKEN_LIFETIME_S=0.000001)
    assert tokens.user_id(f"Bearer {tokens.issue(USER)['access_token']}") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKEN_SECRET", None), ("TOKEN_SECRET", "short"), ("TOKEN_SECRET", 5)]
    + [("TOKEN_LIFETIME_S", value) for value in (None, 0, -1, "x", float("nan"), float("inf"), 1e300)],
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is"):
        make(**{name: value})


# Kept tokens


@pytest.fixture
def checks(monkeypatch) -> list[str]:
    """The tokens whose signatures were checked."""
    checked: list[str] = []
    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda token, *a, **k: checked.append(token) or decode(token, *a, **k))
    return checked


def test_a_good_token_is_checked_once(checks) -> None:
    tokens, header = make(), signed()
    assert [tokens.user_id(header) for _ in range(3)] == [USER] * 3
    assert tokens.user_id(header.replace("Bearer", "bearer")) == USER
    assert len(checks) == 1


def test_a_kept_token_ends_with_its_time(checks, monkeypatch) -> None:
    tokens, header = make(), signed(exp=datetime.now(UTC) + timedelta(hours=1))
    assert tokens.user_id(header) == USER
    monkeypatch.setattr("gateway.tokens.time", lambda: time() + 3601)
    assert tokens.user_id(header) is None
    assert len(checks) == 1


def test_a_forged_token_is_never_kept(checks) -> None:
    tokens, good = make(), signed()
    forged = [signed(secret=SECRET[::-1]), f"{good}x", signed(sub="admin"), signed(exp=None), good[:-9]]
    assert tokens.user_id(good) == USER
    for header in forged * 2:
        assert tokens.user_id(header) is None
    assert len(checks) == 1 + 2 * len(forged)
    assert tokens._verified.cache_info().currsize == 1


def test_no_more_tokens_are_kept_than_the_bound(checks, monkeypatch) -> None:
    monkeypatch.setattr("gateway.tokens.MOST_KEPT", 3)
    tokens, headers = make(), [signed(jti=str(n)) for n in range(5)]
    assert [tokens.user_id(header) for header in headers * 2] == [USER] * 10
    assert tokens._verified.cache_info().currsize == 3
    assert len(checks) > 5


def test_another_key_knows_nothing_of_the_tokens_kept(checks) -> None:
    header = signed()
    assert make().user_id(header) == USER
    assert make(TOKEN_SECRET=SECRET[::-1]).user_id(header) is None


DEVELOPMENT = "development-only-do-not-use-in-production"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_the_development_key_serves_this_machine(host: str) -> None:
    assert make(TOKEN_SECRET=DEVELOPMENT, WEB_SERVER_ADDRESS=f"{host}:8000").issue(USER)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "[::]", "10.0.0.1", "128.0.0.1", "shop", "127.0.0.1.example.org", "127.evil"],
)
def test_the_development_key_serves_nobody_else(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^TOKEN_SECRET is [^\n]*set another$"):
        make(TOKEN_SECRET=DEVELOPMENT, WEB_SERVER_ADDRESS=f"{host}:8000")
