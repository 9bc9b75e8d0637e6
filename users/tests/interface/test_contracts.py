"""The outcomes and events of users match its samples."""

import pytest

from tests.contracts import (
    alike,
    event_sample,
    methods_with_samples,
    rpc_methods,
    rpc_sample,
)
from users.service import Service


def test_every_method_has_a_sample(config) -> None:
    assert methods_with_samples("users") == rpc_methods(Service, config)


@pytest.mark.parametrize("method", methods_with_samples("users"))
def test_outcomes_match_the_samples(users, method) -> None:
    sample = rpc_sample(f"users.{method}")
    if method != "create":
        users.create(
            id=event_sample("users.user_created")["user_id"],
            **rpc_sample("users.create")["request"],
        )
    assert alike(getattr(users, method)(**sample["request"])) == alike(sample["reply"])


def test_user_created_matches_its_sample(users, sql) -> None:
    users.create(**rpc_sample("users.create")["request"])
    [(event,)] = sql("users", "SELECT payload FROM outbox")
    assert alike(event) == alike(event_sample("users.user_created"))
