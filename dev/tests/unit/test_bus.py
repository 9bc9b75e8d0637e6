"""The permissions on the broker follow from the code and are only those listed here."""

import re

import pytest

from dev import bus

CALLS = {
    "gateway": {
        "users.create",
        "users.authenticate",
        "users.get",
        "billing.account_many",
        "billing.deposit_many",
        "billing.get_withdrawal",
        "billing.statement",
        "billing.withdraw_many",
        "orders.get",
        "orders.get_history",
        "orders.get_many",
        "orders.list",
        "orders.place_many",
        "notifications.get_letter",
        "notifications.list",
        "notifications.send",
    },
    "orders": {
        "billing.cancel_many",
        "billing.withdraw_many",
    },
    "billing": {"users.get_many"},
    "notifications": {"users.get_many"},
    "users": set(),
    "migrations": set(),
}
SHARED = ("nameko-rpc", "users.events", "orders.events", "amq.default")


def may(user: str, right: str, name: str) -> bool:
    return re.fullmatch(bus.bus()["users"][user][right], name) is not None


def keys(user: str, exchange: str, right: str) -> str:
    topics = bus.bus()["users"][user]["topics"]
    pattern: str = topics.get(exchange, {}).get(right, "")
    return pattern


def test_the_file_is_up_to_date() -> None:
    assert bus.FILE.read_text() == bus.text(), "make specs"


@pytest.mark.parametrize("user", CALLS)
def test_a_user_may_call_only_the_listed_methods(user) -> None:
    methods = bus.methods()
    pattern = keys(user, "nameko-rpc", "write")
    assert {method for method in methods if re.fullmatch(pattern, method)} == CALLS[
        user
    ]


def test_an_operator_may_call_every_method() -> None:
    methods = bus.methods()
    assert len(methods) > len(CALLS["gateway"])
    assert all(
        re.fullmatch(keys("operator", "nameko-rpc", "write"), method)
        for method in methods
    )


@pytest.mark.parametrize("service", bus.SERVICES)
def test_no_service_may_declare_or_delete_an_exchange(service) -> None:
    assert not any(
        may(service, "configure", name) for name in (*bus.bus()["exchanges"], *SHARED)
    )


@pytest.mark.parametrize("service", bus.SERVICES)
def test_a_service_has_no_rights_on_other_services_queues(service) -> None:
    queues = {each: bus.service(each).queues for each in bus.SERVICES}
    foreign = [
        name for other, found in queues.items() for name in found if other != service
    ]
    assert foreign
    for right in ("configure", "write", "read"):
        assert not any(may(service, right, name) for name in foreign)


@pytest.mark.parametrize("service", bus.SERVICES)
def test_a_service_publishes_only_to_its_own_exchange(
    service,
) -> None:
    exchanges = [name for name in SHARED[1:] if name != f"{service}.events"]
    assert not any(may(service, "write", name) for name in exchanges)


@pytest.mark.parametrize("service", ["billing", "orders", "notifications", "gateway"])
def test_a_service_receives_its_own_replies_only(service) -> None:
    prefixes = {each: bus.reply_prefix(each) for each in bus.SERVICES}
    received = [
        each
        for each, prefix in prefixes.items()
        if re.fullmatch(
            keys(service, "nameko-rpc", "read"), f"{prefix}-0000-4000-8000-000000000000"
        )
    ]
    assert received == [service]


EVENTS = {"users.events", "orders.events"}
MOVES = {"evt-moves--billing.direct", "evt-moves--notifications.direct"}
ON_EXCHANGES = {
    "migrations": {
        "configure": {"nameko-rpc", *EVENTS, *MOVES},
        "write": {"amq.default", *MOVES},
        "read": {*EVENTS, *MOVES},
    },
    "operator": {right: {"nameko-rpc"} for right in ("configure", "write", "read")},
}


@pytest.mark.parametrize("user", ON_EXCHANGES)
def test_migrations_and_operators_have_only_the_listed_rights(
    user,
) -> None:
    found = {*bus.bus()["exchanges"], *SHARED}
    assert found == {"nameko-rpc", "amq.default", *EVENTS, *MOVES}
    for right, named in ON_EXCHANGES[user].items():
        assert {name for name in found if may(user, right, name)} == named


def test_an_operator_has_no_rights_on_queues_of_services() -> None:
    queues = [name for each in bus.SERVICES for name in bus.service(each).queues]
    assert not any(
        may("operator", right, name)
        for right in ("configure", "write", "read")
        for name in queues
    )
