"""What crosses the wire to and from users."""

from marshmallow import Schema, fields, validate

from chassis.schemas import EmailAddress, Id, Text

USERNAME = validate.Regexp(
    r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", error="Only letters, digits, dots, hyphens and underscores."
)


class NewUser(Schema):
    """A sign-up. Passwords have 8 to 128 characters (NIST SP 800-63B)."""

    id = Id()
    username = Text(1, 64, USERNAME, required=True)
    email = EmailAddress(required=True)
    password = Text(8, 128, required=True)
    locale = fields.String(load_default="en", validate=validate.OneOf(("en", "ru")))


class Credentials(Schema):
    """A login. A value that no user can have is answered like a wrong one."""

    username = Text(1, 64, required=True)
    password = Text(1, 128, required=True)


class PublicUser(Schema):
    """A user as others see it, and what `user_created` carries (with `user_id` for `id`)."""

    id = fields.String()
    username = fields.String()
    email = fields.String()
    locale = fields.String()
