"""Check that a text is safe in the header of an email."""

import email.message
import email.policy
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address


def read_back(subject: str, username: str, address: str) -> email.message.Message:
    """Write and parse a message. Raises if Python's email package refuses a header."""
    policy = email.policy.default if address.isascii() else email.policy.SMTPUTF8
    message = email.message.EmailMessage(policy)
    message["Subject"] = subject
    local, _, domain = address.rpartition("@")
    message["To"] = Address(username, local, domain)
    message.set_content("A body.")
    read = email.message_from_string(message.as_bytes().decode(), policy=policy)
    assert read.keys() == message.keys(), "a value became a header"
    assert not read["Subject"].defects
    defects = {type(defect) for defect in read["To"].defects}
    # RFC 6532 permits such a local part.
    assert defects <= (set() if local.isascii() else {NonASCIILocalPartDefect})
    assert [to.addr_spec for to in read["To"].addresses] == [address]
    return read
