"""A TLS connection to the broker has the same limits as a plain one."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import eventlet
import pytest
from nameko.standalone.rpc import ClusterRpcProxy

from chassis import amqp_transport, broker, consumer
from chassis.broker import PublisherConnection
from chassis.consumer import QueueConsumer
from chassis.container import Container
from chassis.rpc import rpc
from chassis.tests.conftest import Proxy, running
from chassis.tests.tls import encrypted_broker, give_certificates, make_certificates
from conftest import DEADLINE_S
from dev.ports import free_ports
from dev.servers import Servers


@pytest.fixture(scope="module")
def tls_config(
    servers: Servers,
    chassis_config: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Any]]:
    """The settings of a connection over TLS, with a trusted CA."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificates(folder)
    give_certificates(servers, folder, "rabbitmq")
    port = free_ports()["rabbitmq"]
    with (
        encrypted_broker(servers, {"here": port}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.crt"))
        uri = urlsplit(chassis_config["AMQP_URI"])
        place = uri.netloc.replace(f"127.0.0.1:{uri.port}", f"localhost:{port}")
        yield {**chassis_config, "AMQP_URI": f"amqps://{place}/"}


@pytest.fixture
def rpc_proxy(chassis_config) -> Iterator[Any]:
    """A client with a plain connection."""
    with ClusterRpcProxy(chassis_config, timeout=DEADLINE_S) as proxy:
        yield proxy


@pytest.fixture
def tls_proxy(tls_config) -> Iterator[Proxy]:
    """A proxy before the encrypted port of the broker."""
    proxy = Proxy(tls_config)
    yield proxy
    proxy.close()


class Echo:
    name = "echo"

    @rpc
    def same(self, value: int) -> int:
        return value


def test_a_lost_connection_is_replaced(tls_proxy, rpc_proxy) -> None:
    with running(Container(Echo, tls_proxy.config)):
        assert rpc_proxy.echo.same(1) == 1
        tls_proxy.cut()
        assert rpc_proxy.echo.same(2) == 2


def test_a_connection_that_is_cut_off_is_replaced(tls_config, rpc_proxy) -> None:
    container = Container(Echo, tls_config)
    [queue_consumer] = [
        each for each in container.extensions if isinstance(each, QueueConsumer)
    ]
    with running(container):
        assert rpc_proxy.echo.same(1) == 1
        consumer._cut_off(queue_consumer._channel)
        assert rpc_proxy.echo.same(2) == 2


def test_closing_a_connection_does_not_wait_for_tls(tls_proxy, monkeypatch) -> None:
    monkeypatch.setattr(broker, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(amqp_transport, "MAX_SILENCE_S", 10 * DEADLINE_S)
    link = PublisherConnection(tls_proxy.config, lambda channel: None)
    tls_proxy.hold()
    with eventlet.Timeout(DEADLINE_S):
        link.close()
