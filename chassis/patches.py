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
MMAP_THRESHOLD_BYTES = 1024 * 1024


def apply_all() -> None:
    """Apply all patches that every process of the suite needs. A second call changes nothing."""
    decode_json_as_plain_data()
    accept_unreadable_properties()
    accept_text_that_is_not_utf8()
    use_amqp_transport()
    skip_unused_log_fields()


def decode_json_as_plain_data() -> None:
    """Replace kombu's JSON decoder (kombu 5.7).

    It creates objects of any type that `{"__type__": ...}` names, accepts a body of any size, and
    needs twice the time.
    """
    register("json", None, _decode_json, content_type="application/json")


def _decode_json(body: str) -> Any:
    """Return the data. Raises ValueError for a body that could exhaust the service's memory."""
    if len(body) > MAX_BODY_CHARS:
        raise ValueError(f"a body has more than {MAX_BODY_CHARS} characters")
    return json.loads(body)


def accept_unreadable_properties() -> None:
    """Replace py-amqp's reader of message properties (py-amqp 5.4, kombu 5.7).

    It raises for headers that it cannot read, which ends each consumer that receives them. From
    readable ones kombu takes instructions to decompress the body, to any size.
    """
    serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID] = _read_properties


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


def accept_text_that_is_not_utf8() -> None:
    """Have py-amqp drop bytes that are not UTF-8 from names and properties (py-amqp 5.4).

    It raises UnicodeDecodeError, which ends each consumer that receives them. Dropping cannot make
    a text longer than the limits of AMQP.
    """
    serialization.pstr_t = _decode_utf8


def _decode_utf8(given: str | bytes) -> str:
    return given if isinstance(given, str) else given.decode("utf-8", "ignore")


def use_amqp_transport() -> None:
    """Have kombu open each connection by `chassis.amqp_transport` (py-amqp 5.4, kombu 5.7).

    py-amqp's own transport accepts a certificate for any name, lets a heartbeat interrupt a long
    write, and asks the socket three times for a frame.
    """
    pyamqp.Transport.Connection = amqp_transport.Connection


def skip_unused_log_fields() -> None:
    """Stop logging from looking up caller, thread and process, which no formatter here uses.

    See "Optimization" in the logging HOWTO of Python (3.11 to 3.13).
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def return_large_blocks() -> None:
    """Have glibc return a freed block of 1 MiB or more to the system (glibc 2.36).

    It raises that threshold to the size of the largest block freed, up to 32 MiB. Each thread
    would then keep its last large block. Other C libraries have no such parameter.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
