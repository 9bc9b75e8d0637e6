"""Several copies of each service: their names, their ports, what they run."""

from pathlib import Path

from dev.ports import free_ports
from dev.suite import SERVICES, Suite, further_copies, service_of


def test_copies_are_numbered_from_the_second_one() -> None:
    assert further_copies(1) == []
    assert further_copies(3)[:6] == ["users2", "billing2", "orders2", "notifications2", "gateway2", "users3"]
    assert {service_of(name) for name in further_copies(4)} == set(SERVICES)


def test_gateways_share_a_port_and_all_other_copies_have_their_own(tmp_path: Path) -> None:
    suite = Suite(tmp_path, free_ports(further_copies(4)), copies=4)
    assert len(suite.services) == 20
    gateways = {suite.ports[name] for name in suite.services if service_of(name) == "gateway"}
    others = {suite.ports[name] for name in suite.services if service_of(name) != "gateway"}
    assert gateways == {suite.ports["gateway"]}
    assert len(others) == 16


def test_a_copy_runs_the_service_it_is_a_copy_of(tmp_path: Path) -> None:
    suite = Suite(tmp_path, free_ports(further_copies(3)), copies=3)
    assert suite.command("orders3") == suite.command("orders")
