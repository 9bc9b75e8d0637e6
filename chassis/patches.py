"""Every patch of another library, and every global switch of one.

`chassis.broker` calls `apply_all` when it is imported, so no connection to the broker exists
without the patches. Each one names its reason and the versions that it was seen with.
chassis/tests/unit/test_patches.py fails when a library no longer needs one of them.
"""

import ctypes
import json
import logging
from typing import Any

from amqp import serialization, spec
from kombu.serialization import register
from kombu.transport import pyamqp

from chassis import amqp_transport

# Characters of a message's body: twice the largest page of letters.
MAX_BODY_CHARS = 2 * 1024 * 1024
TEXT_ENCODINGS = ("utf-8", "utf-16", "ascii", "us-ascii", "latin-1", "binary")
# The parameter's number in <malloc.h>.
M_MMAP_THRESHOLD = -3


def apply_all() -> None:
    """Apply all patches that every process of the suite needs. A second call changes nothing."""
    # kombu's JSON decoder creates objects of any type that {"__type__": ...} names, accepts a body
    # of any size, and needs twice the time. Seen with kombu 5.7.
    register("json", None, _decode_json, content_type="application/json")

    # py-amqp raises for headers that it cannot read, which ends each consumer that receives them.
    # From readable ones kombu takes instructions to decompress the body, to any size.
    # Seen with py-amqp 5.4 and kombu 5.7.
    serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID] = _read_properties

    # py-amqp raises for text that is not UTF-8, which ends each consumer that receives it.
    # Seen with py-amqp 5.4.
    serialization.pstr_t = _decode_utf8

    # py-amqp's transport accepts a certificate for any name, resolves names with eventlet's cache,
    # waits without limit, and reads from the socket three times for a frame.
    # Seen with py-amqp 5.4 and kombu 5.7.
    pyamqp.Transport.Connection = amqp_transport.Connection

    # logging looks up caller, thread and process for each line, which no formatter here uses.
    # See "Optimization" in the logging HOWTO of Python 3.11 to 3.13.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _decode_json(body: str) -> Any:
    """Return the data. Raises ValueError for a body that could exhaust the service's memory."""
    if len(body) > MAX_BODY_CHARS:
        raise ValueError(f"a body has more than {MAX_BODY_CHARS} characters")
    return json.loads(body)


def _read_properties(data: Any, offset: int) -> tuple[dict[str, Any], int]:
    """Return the properties, none if they are unreadable, and the offset of their end."""
    try:
        properties, end = serialization.decode_properties_basic(data, offset)
    except Exception:  # py-amqp raises errors of many types
        return {}, len(data)
    # kombu would decompress a body by this header, and by codecs such as bz2.
    properties.get("application_headers", {}).pop("compression", None)
    if properties.get("content_encoding") not in TEXT_ENCODINGS:
        properties.pop("content_encoding", None)
    return properties, end


def _decode_utf8(given: str | bytes) -> str:
    """Drop the bytes that are not UTF-8, so that the text stays within the limits of AMQP."""
    return given if isinstance(given, str) else given.decode("utf-8", "ignore")


def return_large_blocks() -> None:
    """Have glibc return a freed block of 1 MiB or more to the system (glibc 2.36).

    It raises that threshold to the size of the largest block freed, up to 32 MiB. Each thread
    would then keep its last large block. Other C libraries have no such parameter.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 1024 * 1024)
