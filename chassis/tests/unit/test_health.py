"""Responses of /healthz, /readyz and /metrics, and the health server."""

import errno
import json
import resource
import socket
from contextlib import ExitStack, closing

import eventlet
import pytest
from eventlet.event import Event
from prometheus_client.parser import text_string_to_metric_families

from chassis import health, metrics
from chassis.errors import Unavailable
from conftest import eventually, loopback
from dev.ports import free_ports


@pytest.fixture(autouse=True)
def _no_other_checks(monkeypatch) -> None:
    monkeypatch.setattr(health, "_checks", {})


def fail() -> None:
    raise Unavailable("gone")


def ready() -> tuple[int, dict[str, str]]:
    answer = health.respond("/readyz")
    return answer.status_code, json.loads(answer.data)["checks"]


def test_healthz_runs_no_check() -> None:
    health.add_check("billing", "broker", fail)
    assert health.respond("/healthz").status_code == 200


def test_readyz_is_503_without_checks() -> None:
    assert ready() == (503, {})


def test_readyz_is_200_when_all_checks_pass() -> None:
    health.add_check("billing", "broker", lambda: None)
    health.add_check("billing", "database", lambda: None)
    assert ready() == (200, {"billing broker": "ok", "billing database": "ok"})


def test_readyz_is_503_when_one_check_fails() -> None:
    health.add_check("billing", "broker", lambda: None)
    health.add_check("billing", "database", fail)
    assert ready() == (503, {"billing broker": "ok", "billing database": "away"})


def test_a_check_that_times_out_fails(monkeypatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.05)
    health.add_check("billing", "broker", Event().wait)
    health.add_check("billing", "database", lambda: None)
    assert ready() == (503, {"billing broker": "away", "billing database": "ok"})


def test_checks_run_at_the_same_time() -> None:
    first, second = Event(), Event()

    def meet(mine: Event, other: Event) -> None:
        mine.send()
        other.wait()

    health.add_check("billing", "broker", lambda: meet(first, second))
    health.add_check("orders", "broker", lambda: meet(second, first))
    assert ready()[0] == 200


def test_concurrent_requests_share_one_run_of_a_check() -> None:
    calls, done = [], Event()

    def slow() -> None:
        calls.append(1)
        done.wait()
        raise Unavailable("gone")

    health.add_check("billing", "database", slow)
    answers = [eventlet.spawn(ready) for _ in range(20)]
    eventually(lambda: calls)
    done.send()
    assert [answer.wait()[0] for answer in answers] == [503] * 20
    assert len(calls) == 1


def test_a_result_is_cached_for_a_limited_time(monkeypatch) -> None:
    calls = []
    health.add_check("billing", "database", lambda: calls.append(1))
    assert [ready()[0] for _ in range(3)] == [200] * 3
    assert len(calls) == 1
    monkeypatch.setattr(health, "RESULT_TTL_S", 0)
    health._checks["billing database"]._valid_until = 0
    assert [ready()[0] for _ in range(3)] == [200] * 3
    assert len(calls) == 4


def test_an_unexpected_error_fails_a_check() -> None:
    def broken() -> None:
        raise KeyError("no such thing")

    health.add_check("billing", "database", broken)
    assert ready() == (503, {"billing database": "away"})


def test_a_service_can_stop_during_readyz() -> None:
    asked, stopped = Event(), Event()

    def slow() -> None:
        asked.send()
        stopped.wait()

    health.add_check("orders", "database", slow)
    health.add_check("users", "database", lambda: None)
    answer = eventlet.spawn(ready)
    asked.wait()
    health.remove_checks("users")
    stopped.send()
    assert answer.wait()[0] == 200


def test_startedz_runs_only_the_checks_of_the_start() -> None:
    assert health.respond("/startedz").status_code == 503
    health.add_check("a", "started", lambda: None)
    health.add_check("a", "broker", fail)
    assert health.respond("/startedz").status_code == 200
    health.add_check("b", "started", fail)
    assert health.respond("/startedz").status_code == 503
    health.remove_checks("b")
    health.remove_checks("a")  # as at the stop
    assert health.respond("/startedz").status_code == 503


def test_the_health_server_survives_a_lack_of_descriptors(caplog) -> None:
    """eventlet's own server would end and close its socket."""
    health.serve.cache_clear()
    address = health.serve("127.0.0.1:0").getsockname()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as asking:
        asking.settimeout(20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (asking.fileno() + 1, limits[1]))
        try:
            asking.connect(address)
            eventually(lambda: "connection_not_accepted" in caplog.messages)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        asking.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
        )
        assert asking.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_do_not_block_a_probe() -> None:
    """eventlet's own server accepts 1,024 connections at most."""
    health.serve.cache_clear()
    address = health.serve("127.0.0.1:0").getsockname()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    with ExitStack() as idle:
        idle.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1040):
            idle.enter_context(socket.create_connection(address))
        with socket.create_connection(address, timeout=5) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert probe.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_other_paths_are_404() -> None:
    assert health.respond("/admin").status_code == 404


def test_metrics_are_in_the_format_of_prometheus() -> None:
    metrics.EVENTS.labels("some-queue", "done").inc()
    text = health.respond("/metrics").get_data(as_text=True)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = [sample.labels for sample in families["shop_events_handled"].samples]
    assert {"queue": "some-queue", "outcome": "done"} in labels


def test_a_port_is_not_shared_by_default() -> None:
    first = health.listen("127.0.0.1:0", "HEALTH")
    port = first.getsockname()[1]
    try:
        with pytest.raises(
            SystemExit,
            match=f"^can't listen on 127.0.0.1:{port}: .*; HEALTH_PORT names the port$",
        ):
            health.listen(f"127.0.0.1:{port}", "HEALTH")
    finally:
        first.close()


def test_a_port_can_be_shared() -> None:
    address = f"127.0.0.1:{free_ports()['gateway']}"
    for listening in [health.listen(address, "HEALTH", shared=True) for _ in range(2)]:
        listening.close()


def test_a_port_in_use_is_reported() -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        with pytest.raises(SystemExit, match=r"^can't listen on "):
            health.listen(
                f"127.0.0.1:{foreign.getsockname()[1]}", "HEALTH", shared=True
            )


@pytest.mark.parametrize("address", ["host:http", "127.0.0.1:", "127.0.0.1:99999"])
def test_a_malformed_address_is_reported(address) -> None:
    with pytest.raises(SystemExit, match="is not an address: write host:port"):
        health.listen(address, "HEALTH")


@pytest.mark.parametrize(
    "host", ["203.0.113.1", "2001:db8::1", "[2001:db8::1]", "name.invalid", ":"]
)
def test_a_foreign_host_is_reported_without_the_port(host) -> None:
    with pytest.raises(
        SystemExit, match=r"^can't listen on .*; HEALTH_HOST names the host$"
    ):
        health.listen(f"{host}:0", "HEALTH")


@pytest.mark.parametrize(
    "address", ["[::]:0", ":::0", "0", "[::0]:0", "0:0:0:0:0:0:0:0:0"]
)
def test_all_interfaces_include_both_families(address) -> None:
    with closing(health.listen(address, "HEALTH")) as listening:
        port = listening.getsockname()[1]
        for host in loopback():
            with socket.create_connection((host, port), timeout=20):
                listening.accept()[0].close()


def test_all_interfaces_are_those_of_ipv4_without_ipv6(
    monkeypatch,
) -> None:
    real = socket.socket

    def make(family, *rest):
        if family == socket.AF_INET6:
            raise OSError(
                errno.EAFNOSUPPORT, "Address family not supported by protocol"
            )
        return real(family, *rest)

    with monkeypatch.context() as without_ipv6:
        without_ipv6.setattr(socket, "socket", make)
        listening = health.listen("[::]:0", "HEALTH")
        with pytest.raises(
            SystemExit, match="Address family not supported by protocol; HEALTH_HOST"
        ):
            health.listen("[::1]:0", "HEALTH")
    with closing(listening):
        assert listening.family == socket.AF_INET
        port = listening.getsockname()[1]
        assert health.url(listening) == f"http://0.0.0.0:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=20).close()


def test_a_name_with_both_families_uses_ipv4() -> None:
    with closing(health.listen("localhost:0", "HEALTH")) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_the_health_server_listens_on_both_families(caplog) -> None:
    caplog.set_level("INFO")
    health.serve.cache_clear()
    port = health.serve("[::]:0").getsockname()[1]
    assert [
        record.url
        for record in caplog.records
        if record.message == "health_server_started"
    ] == [
        f"http://{'[::]' if socket.has_dualstack_ipv6() else '0.0.0.0'}:{port}/readyz"
    ]
    for host in loopback():
        with socket.create_connection((host, port), timeout=20) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert probe.recv(65536).startswith(b"HTTP/1.1 200 ")
