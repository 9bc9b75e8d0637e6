"""Whether a text can stand in the header of an email."""

import email.message
import email.policy
from email.headerregistry import Address


def read_back(subject: str, username: str, address: str) -> email.message.Message:
    """The message as its reader gets it. Raises for what Python's email package refuses."""
    message = email.message.EmailMessage()
    message["Subject"] = subject
    message["To"] = Address(display_name=username, addr_spec=address)
    message.set_content("A body.")
    read = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
    assert read.keys() == message.keys(), "a header was made of a value"
    assert not read["Subject"].defects
    assert not read["To"].defects
    assert [to.addr_spec for to in read["To"].addresses] == [address]
    return read
