"""Settings from config.yaml. A missing or wrong setting is named, and no default is hidden.

All defaults are in config.yaml, so a misspelt name is a missing setting. The value of a variable is
text, never YAML: numbers and switches are parsed here. No message quotes a value.
"""

import re
from typing import Any
from urllib.parse import unquote

import iso4217
from marshmallow import ValidationError, fields, validate
from nameko.exceptions import ConfigurationError
from nameko.extensions import DependencyProvider

from chassis.lifecycle import Lifecycle
from chassis.secret_files import read_secret

SECONDS = fields.Float(validate=validate.Range(min=0, min_inclusive=False))
WHOLE_SECONDS = fields.Integer(strict=True, validate=validate.Range(min=1))
COUNT = fields.Integer(strict=True, validate=validate.Range(1, 100_000))
TEXT = fields.String(validate=validate.Length(min=1))
_PORT = (
    r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)
ADDRESS = fields.String(
    validate=validate.Regexp(rf"(\S+:)?{_PORT}\Z", error="write host:port")
)
SWITCH = fields.Boolean(
    truthy={"true", True},
    falsy={"false", False},
    error_messages={"invalid": "write true or false"},
)
_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
# A parameter of libpq, not of psycopg2 itself. A password is allowed before the host only.
_PARAMETER = (
    r"(port=[0-9,]*|(?!port=|password=|dsn=|async|connection_|cursor_)[a-z_]+=[^@&]*)"
)
# Visible ASCII in which each % begins an encoded byte.
_ENCODED = r"(?=[!-~]*\Z)(?!.*%(?![0-9A-Fa-f]{2}))"
# Digits of an amount after the point, by code of ISO 4217. Codes without a minor unit are left out.
ISO_4217_DIGITS = {
    each.code: each.exponent for each in iso4217.Currency if each.exponent is not None
}
ISO_4217_CODE = fields.String(
    validate=validate.OneOf(
        ISO_4217_DIGITS,
        error="write a code of ISO 4217 for amounts, such as EUR",
    )
)


def _uri(form: str, pattern: str) -> fields.String:
    """Return a field for a URI that the libraries parse as `pattern` does.

    They would read a part of a password with an unencoded "@" or "/" as host or port, and quote it.
    """

    def check(value: str) -> None:
        # U+FFFD replaces bytes that are not UTF-8.
        is_text = {"\0", "\ufffd"}.isdisjoint(unquote(value))
        if not (is_text and re.fullmatch(_ENCODED + pattern, value)):
            raise ValidationError(
                f"it must read {form}, with a percent-encoded password"
            )

    return fields.String(validate=check)


# kombu reads the text after a semicolon as another URI.
AMQP_URI = _uri(
    "amqp://user:password@host:port/vhost",
    rf"amqps?://([^@:/?#;\[\]]*(:[^@/?#;\[\]]*)?@)?{_HOST}(:(?!0){_PORT})?(/[^@?#;]*)?",
)
# A list of hosts may replace the host, or follow the question mark.
DB_URI = _uri(
    "postgresql+psycopg2://role:password@host:port/database",
    r"postgresql\+psycopg2://([^@:/]*(:[^@]*)?@)?"
    rf"({_HOST}(,{_HOST})*)?(:(?!0){_PORT})?(/[^@?]*)?(\?{_PARAMETER}(&{_PARAMETER})*)?",
)


def read(config: Any, name: str, field: fields.Field[Any], variable: str = "") -> Any:
    """Return the setting `name`; a dotted name is a path (`DB_URIS.users:Base`).

    The value may be in a file that `NAME_FILE` names. Raises ConfigurationError with one line,
    which names the `variable`, by default `name`.
    """
    variable = variable or name
    group, *key = name.split(".")
    value, path = _find(config, group, *key), _find(config, f"{group}_FILE", *key)
    if path and not isinstance(path, dict):
        if value:
            raise ConfigurationError(
                f"{variable} and {variable}_FILE are both set: unset one of them"
            )
        value = read_secret(f"{variable}_FILE", str(path))
    if value is None or value == "":
        raise ConfigurationError(
            f"{variable} is missing{field.metadata.get('hint', '')}"
        )
    try:
        return field.deserialize(
            _number(value) if isinstance(field, fields.Number) else value
        )
    except ValidationError as exc:
        raise ConfigurationError(
            f"{variable} is wrong: {' '.join(exc.messages)}"
        ) from None


def _find(config: Any, *path: str) -> Any:
    for part in path:
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _number(value: Any) -> Any:
    """Return the number in a text of decimal digits. A number of config.yaml is unchanged."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", value):
        raise ValidationError("write decimal digits")
    return float(value) if "." in value else int(value)


class Setting(Lifecycle, DependencyProvider):
    """Injects one setting, checked before the start: `currency = Setting("CURRENCY", TEXT)`."""

    def __init__(self, name: str, field: fields.Field[Any]) -> None:
        self.name = name
        self.field = field

    def check(self) -> None:
        self.value = read(self.container.config, self.name, self.field)

    def get_dependency(self, worker_ctx: Any) -> Any:
        return self.value
