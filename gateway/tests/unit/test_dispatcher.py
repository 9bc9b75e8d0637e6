"""A request is accepted or rejected by its head. A client is an address."""

from ipaddress import ip_address

import pytest
from hypothesis import given, strategies as st

from gateway.dispatcher import (
    Dispatcher,
    check_body_headers,
    client_address,
    normalize,
)
from gateway.http.parser import HttpRequest
from gateway.http.responses import Response
from gateway.problems import Problem
from gateway.schemas import NewOrder

JSON = "Content-Type: application/json"
LENGTH = "Content-Length: 2"
CHUNKED = "Transfer-Encoding: chunked"


def parse(*headers: str) -> HttpRequest:
    request = HttpRequest()
    request.parse("POST /orders HTTP/1.1", "Host: shop", *headers)
    return request


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((LENGTH,), 415),
        (("Content-Type:", LENGTH), 415),
        (("Content-Type: text/plain", LENGTH), 415),
        (("Content-Type: application/x-www-form-urlencoded", LENGTH), 415),
        (("Content-Type: application/jsonx", LENGTH), 415),
        ((JSON, LENGTH, "Content-Encoding: gzip"), 415),
        ((JSON,), 411),
    ],
)
def test_a_body_that_cannot_be_json_is_not_read(
    headers: tuple[str, ...], status: int
) -> None:
    with pytest.raises(Problem) as caught:
        check_body_headers(parse(*headers), NewOrder())
    assert caught.value.status == status


@pytest.mark.parametrize(
    "headers", [(JSON, LENGTH), (f"{JSON}; charset=utf-8", LENGTH), (JSON, CHUNKED)]
)
def test_a_body_that_may_be_json_is_read(headers: tuple[str, ...]) -> None:
    check_body_headers(parse(*headers), NewOrder())


@pytest.mark.parametrize("headers", [(LENGTH,), (CHUNKED, "Expect: 100-continue")])
def test_an_unexpected_body_is_not_read(headers: tuple[str, ...]) -> None:
    with pytest.raises(Problem) as caught:
        check_body_headers(parse(*headers), None)
    assert caught.value.status == 400


@pytest.mark.parametrize("headers", [(), ("Content-Length: 0",), (CHUNKED,)])
def test_an_empty_body_may_be_read(headers: tuple[str, ...]) -> None:
    check_body_headers(parse(*headers), None)


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "client"),
    [
        ("192.0.2.1", None, 0, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", 0, "192.0.2.1"),  # no trusted proxy
        ("192.0.2.1", "198.51.100.7", 1, "198.51.100.7"),
        (
            "192.0.2.1",
            "203.0.113.9, 198.51.100.7",
            1,
            "198.51.100.7",
        ),  # the client wrote the first
        ("192.0.2.1", "203.0.113.9,198.51.100.7 , 10.0.0.1", 2, "198.51.100.7"),
        ("192.0.2.1", "10.0.0.1", 2, "192.0.2.1"),  # it did not pass both proxies
        ("192.0.2.1", None, 1, "192.0.2.1"),
        ("192.0.2.1", "", 1, "192.0.2.1"),
        *(
            ("192.0.2.1", wrong, 1, "192.0.2.1")
            for wrong in (
                "unknown",
                "_x",
                "198.51.100.7:80",
                "198.51.100",
                "0x7f.1",
                "1.2.3.4,",
                "[::1]",
            )
        ),
        ("2001:db8:1:fe:3:4:5:6", None, 0, "2001:db8:1::"),
        ("192.0.2.1", "2001:DB8:1:ff::7", 1, "2001:db8:1::"),
        ("::ffff:192.0.2.1", None, 0, "192.0.2.1"),
        ("fe80::1%eth0", None, 0, "fe80::"),
    ],
)
def test_a_client_is_the_peer_of_the_last_trusted_proxy(
    peer, forwarded, proxies, client
) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert client_address(peer, headers, proxies) == client


@given(st.ip_addresses(v=4))
def test_an_ipv4_client_is_the_same_on_a_socket_of_both_families(address) -> None:
    assert client_address(f"::ffff:{address}", {}, 0) == str(address)
    assert client_address("::1", {"x-forwarded-for": f"::FFFF:{address}"}, 1) == str(
        address
    )


@given(st.ip_addresses(network="2000::/3"), st.integers(0, 2**72 - 1))
def test_an_ipv6_client_is_its_56_bit_network(address, other) -> None:
    neighbour = ip_address(int(address) >> 72 << 72 | other)
    stranger = ip_address(int(address) ^ 1 << 72)
    assert normalize(str(neighbour)) == normalize(str(address))
    assert normalize(str(stranger)) != normalize(str(address))


@given(st.text(max_size=50), st.integers(0, 10))
def test_no_forwarded_header_breaks_the_gateway(text: str, proxies: int) -> None:
    assert client_address("192.0.2.1", {"x-forwarded-for": text}, proxies)


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/docs"])
def test_documents_need_no_public_health_paths(path: str) -> None:
    config = {"TRUSTED_PROXIES": 0, "CURRENCY": "EUR", "WEB_SERVER_HEALTH": False}
    response = Dispatcher(config).dispatch(HttpRequest("GET", path), "127.0.0.1")
    assert isinstance(response, Response)
    assert response.status == 200
