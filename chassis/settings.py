"""config.yaml, read strictly: what is missing or wrong is named, and nothing has a hidden default.

All defaults stand in config.yaml itself, so a misspelt name is a missing setting.
"""

from typing import Any

import iso4217
from marshmallow import ValidationError, fields, validate
from nameko.exceptions import ConfigurationError
from nameko.extensions import DependencyProvider

SECONDS = fields.Float(validate=validate.Range(min=0, min_inclusive=False))
WHOLE_SECONDS = fields.Integer(strict=True, validate=validate.Range(min=1))
COUNT = fields.Integer(strict=True, validate=validate.Range(1, 100_000))
TEXT = fields.String(validate=validate.Length(min=1))
_PORT = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
ADDRESS = fields.String(validate=validate.Regexp(rf"(\S*:)?{_PORT}\Z", error="write host:port"))
# How many digits of an amount stand after the point, by the codes of ISO 4217. Some codes have no amounts.
ISO_4217_DIGITS = {each.code: each.exponent for each in iso4217.Currency if each.exponent is not None}
ISO_4217_CODE = fields.String(
    validate=validate.OneOf(
        ISO_4217_DIGITS,
        error="{input!r} is no code of ISO 4217 for amounts, as EUR is",
    )
)


def read(config: Any, name: str, field: fields.Field[Any]) -> Any:
    """The setting `name`; a dotted name looks inside (`DB_URIS.users:Base`).

    Raises ConfigurationError, whose one line names the setting.
    """
    value = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        raise ConfigurationError(f"{name} is missing")
    try:
        return field.deserialize(value)
    except ValidationError as exc:
        raise ConfigurationError(f"{name} is wrong: {' '.join(exc.messages)}") from exc


class Setting(DependencyProvider):
    """Injects one setting, checked before the service starts: `currency = Setting("CURRENCY", TEXT)`."""

    def __init__(self, name: str, field: fields.Field[Any]) -> None:
        self.name = name
        self.field = field

    def check(self) -> None:
        self.value = read(self.container.config, self.name, self.field)

    def get_dependency(self, worker_ctx: Any) -> Any:
        return self.value
