"""A fake name server on loopback, for eventlet's resolver."""

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import eventlet
import pytest
from eventlet.support import greendns

DAY_S = 86_400
NO_SUCH_NAME = f"ns.test. admin.test. 1 7200 900 1209600 {DAY_S}"


class NameServer:
    """Replies with `addresses`, valid for a day, after `delay_s`.

    It does not reply while it `is_silent`, or to questions for names and types in `ignored`.
    """

    def __init__(self, host: str) -> None:
        self.configuration = f"nameserver {host}\n"  # instead of /etc/resolv.conf
        self.addresses: dict[str, list[str]] = {}
        self.is_silent = False
        self.ignored: set[str] = set()
        self.delay_s = 0.0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = eventlet.spawn(self._serve)

    def close(self) -> None:
        self._thread.kill()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(65_535)
            query = dns.message.from_wire(data)
            [asked] = query.question
            about = {
                asked.name.to_text(omit_final_dot=True),
                dns.rdatatype.to_text(asked.rdtype),
            }
            if not self.is_silent and not about & self.ignored:
                answer = self._answer(query).to_wire()
                eventlet.spawn_after(self.delay_s, self._socket.sendto, answer, client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        [asked] = query.question
        answer = dns.message.make_response(query)
        found = self.addresses.get(asked.name.to_text(omit_final_dot=True))
        if found is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            authority = dns.rrset.from_text(
                asked.name, DAY_S, "IN", "SOA", NO_SUCH_NAME
            )
            answer.authority.append(authority)
        is_ipv6 = asked.rdtype == dns.rdatatype.AAAA
        # One set for each record: dnspython shuffles the records of a set.
        for address in found or ():
            if (":" in address) == is_ipv6:
                record = dns.rrset.from_text(
                    asked.name, DAY_S, "IN", asked.rdtype, address
                )
                answer.answer.append(record)
        return answer


@contextmanager
def name_server(
    monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1"
) -> Iterator[NameServer]:
    """Start the only name server of this process. /etc/hosts is read as usual."""
    server = NameServer(host)

    class Resolver(greendns.dns.resolver.Resolver):  # type: ignore[misc]
        def __init__(self, filename: str = "") -> None:
            super().__init__(io.StringIO(server.configuration))
            self.port = server.port  # /etc/resolv.conf has no ports

    monkeypatch.setattr(greendns.dns.resolver, "Resolver", Resolver)
    monkeypatch.setattr(
        greendns, "resolver", greendns.ResolverProxy(greendns.HostsResolver())
    )
    try:
        yield server
    finally:
        server.close()
