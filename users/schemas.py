"""The arguments and outcomes of the RPC methods of users."""

from marshmallow import Schema, fields, validate

from chassis.schemas import Id, Text, email_address

USERNAME = validate.Regexp(
    r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z",
    error="Only Latin letters, digits, dots, hyphens and underscores.",
)
# Language tags of browsers (BCP 47) and of POSIX. A tag of a language without letters is valid: the
# user gets English letters. Any other text is a mistake of the client, and is invalid.
LOCALE = validate.Regexp(
    r"\A[A-Za-z]{1,8}([-_.@][A-Za-z0-9]+)*\Z",
    error="Must be a language tag such as en-US.",
)


class NewUser(Schema):
    """A sign-up. Passwords have 8 to 128 characters (NIST SP 800-63B)."""

    id = Id()
    username = Text(1, 64, USERNAME, required=True)
    email = fields.String(required=True, validate=email_address)
    password = Text(8, 128, required=True)
    locale = Text(1, 35, LOCALE, load_default="en")  # RFC 5646, section 4.4.1


class Credentials(Schema):
    """A login. A value that no user can have has the same outcome as a wrong one."""

    username = Text(1, 64, required=True)
    password = Text(1, 128, required=True)


# The public fields of a user. `user_created` has the same, with `user_id` instead of `id`.
PublicUser = Schema.from_dict(
    {
        "id": fields.String(),
        "username": fields.String(),
        "email": fields.String(),
        "locale": fields.String(),
    },
    name="PublicUser",
)
