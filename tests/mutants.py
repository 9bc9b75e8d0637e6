"""Checks that the tests would notice a missing promise.

    python -m tests.mutants [--quick] [word ...]

A mutant is the code without one thing that a promise depends on, in a copy of the tracked files.
One of its tests must fail there. Before, the same tests must pass with the code as it is.
Arguments select the mutants whose names contain them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation import (
    Change,
    Drop,
    DropDefinition,
    DropKey,
    Prepend,
    Replace,
    ReplaceInFile,
    ReplaceText,
    Return,
    SetArgument,
    SetCondition,
    SetValue,
)

CHECKOUT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300  # of one run of tests
FAILED = 1  # pytest's exit code. Others mean that the tests could not be run.

BOOKS = "billing/tests/unit/test_domain.py"
WITHDRAWAL = "billing/tests/interface/test_get_withdrawal.py"
LEDGER = "billing/tests/interface/test_ledger.py"
PLACE = "orders/tests/interface/test_place.py"
HISTORY = "orders/tests/interface/test_history.py"
SWEEPER = "orders/tests/interface/test_sweeper.py"
LETTERS = "notifications/tests/interface/test_letters.py"
USERS = "users/tests/interface/test_users.py"
PUBLISHERS = "chassis/tests/interface/test_publishers.py"
EVENTS = "chassis/tests/interface/test_events.py"
POSITION = "chassis/tests/interface/test_outbox_position.py"
MIGRATIONS = "chassis/tests/interface/test_migration_limits.py"
OUTBOX = "chassis/tests/interface/test_outbox.py"
RPC = "chassis/tests/interface/test_rpc.py"
RETRIES = "chassis/tests/unit/test_retries.py"
UNIT_EVENTS = "chassis/tests/unit/test_events.py"
DEAD = "chassis/tests/interface/test_dead_letters.py"
STORE = "orders/tests/interface/test_store.py"
REPLAY = "replay/tests/interface/test_command.py"
LIMITS = "chassis/tests/interface/test_queue_limits.py"
BROKER_USER = "chassis/tests/interface/test_broker_user.py"
COMMAND = "chassis/tests/unit/test_cli.py"
HEALTH = "chassis/tests/unit/test_health.py"
DATABASE_LIMITS = "chassis/tests/interface/test_database_limits.py"
CONTAINER = "chassis/tests/interface/test_container.py"
LOOPS = "chassis/tests/unit/test_loops.py"
CLIENTS = "gateway/tests/unit/test_dispatcher.py"
SERVER = "gateway/tests/unit/test_server.py"
WAITS = "gateway/tests/interface/test_waits.py"
MONEY = "gateway/tests/unit/test_money.py"
LOOKUPS = "chassis/tests/interface/test_lookups.py"
DATABASE = "chassis/tests/interface/test_database_checks.py"
POOLER = "tests/system/test_pooler.py"
TLS = "chassis/tests/interface/test_tls.py"
SETTINGS = "chassis/tests/unit/test_settings.py"
SECRET_FILES = "chassis/tests/unit/test_secret_files.py"
FAIR_QUEUE = "users/tests/unit/test_fair_queue.py"
LOGS = "chassis/tests/unit/test_logs.py"
MESSAGES = "notifications/tests/interface/test_messages.py"
COPIES = "dev/tests/unit/test_copies.py"
SERVERS = "dev/tests/interface/test_servers.py"


@dataclass(frozen=True)
class Mutant:
    """A broken promise, and the tests (`file::name`) of which one must fail."""

    name: str
    changes: Sequence[Change | ReplaceInFile]
    tests: Sequence[str]

    @property
    def is_quick(self) -> bool:
        """Whether its tests run without a server."""
        return all("/unit/" in test for test in self.tests)


def tests(file: str, *names: str) -> list[str]:
    return [f"{file}::{name}" for name in names]


OWN_EXCHANGES = "test_only_services_with_an_outbox_have_an_exchange_of_events"
DETOUR = "test_a_request_that_bypassed_the_permissions_is_not_executed"
GUARD = ReplaceText("orders.store:SETTLE", "AND orders.status = 'pending'")
TRIGGER = ReplaceText(
    "orders.migrations.0001_orders_and_outbox:upgrade",
    "WHEN (OLD.status <> 'pending')",
    "WHEN (false)",
)
UNSTORED_REFUSAL = Replace(
    "billing.domain:decide",
    "new_operations.append(operation)",
    'if operation.status == "done": new_operations.append(operation)',
)
MUTANTS = [
    # Amounts agree with the books.
    Mutant(
        "books in another currency start",
        [SetCondition("billing.database:BillingDatabase.check_content")],
        tests(
            "billing/tests/unit/test_database.py",
            "test_books_in_another_currency_end_the_start",
        ),
    ),
    Mutant(
        "every currency has two digits",
        [Return("gateway.money:digits", "2")],
        tests(MONEY, "test_an_amount_has_the_digits_of_its_currency"),
    ),
    Mutant(
        "a text may have more digits than its currency",
        [
            Replace(
                "gateway.money:_decimal",
                'len(value.partition(".")[2]) <= digits()',
                "True",
            )
        ],
        tests(MONEY, "test_an_amount_with_more_digits_is_rejected"),
    ),
    Mutant(
        "letters have the digits of CLDR",
        [
            SetArgument(
                "notifications.domain:_price",
                "format_currency",
                "currency_digits",
                "True",
            )
        ],
        tests(
            "notifications/tests/unit/test_domain.py",
            "test_an_amount_has_the_format_of_the_language_and_iso_4217_digits",
        ),
    ),
    # Unique keys make effects happen once.
    Mutant(
        "a ref is not unique",
        [
            SetArgument(
                "billing.migrations.0001_accounts_and_operations:upgrade",
                "sa.Column",
                "unique",
                None,
                mentions='"ref"',
            ),
            ReplaceText(
                "billing.store:INSERT_OPERATIONS", "ON CONFLICT (ref) DO NOTHING"
            ),
        ],
        tests(
            LEDGER,
            "test_one_of_two_users_gets_a_ref_that_both_use",
            "test_a_ref_taken_by_another_transaction_is_a_conflict",
        ),
    ),
    Mutant(
        "an idempotency key of an order is not unique",
        [
            SetArgument(
                "orders.migrations.0001_orders_and_outbox:upgrade",
                "op.create_index",
                "unique",
                None,
                mentions='"orders_by_key"',
            ),
            ReplaceText(
                "orders.store:INSERT_NEW", "ON CONFLICT (user_id, key) DO NOTHING"
            ),
        ],
        tests(
            PLACE,
            "test_the_same_key_is_the_same_order",
            "test_concurrent_orders_with_one_key_are_one_order",
        ),
    ),
    Mutant(
        "an order may have two letters",
        [
            SetArgument(
                "notifications.migrations.0001_recipients_and_letters:upgrade",
                "sa.Column",
                "unique",
                None,
                mentions='"order_id"',
            )
        ],
        tests(
            LETTERS,
            "test_redelivered_and_reordered_events_write_one_letter_an_order",
        ),
    ),
    Mutant(
        "a redelivered sign-up is refused",
        [
            Replace(
                "users.service:_conflict",
                'other["id"] == user["id"]',
                'other["id"] != user["id"]',
            )
        ],
        tests(USERS, "test_a_redelivered_sign_up_has_the_first_outcome"),
    ),
    # An order ends once.
    Mutant(
        "an order ends though it has ended",
        [GUARD],
        tests(PLACE, "test_an_order_settled_twice_has_one_event"),
    ),
    Mutant(
        "the database lets an ended order be changed",
        [TRIGGER],
        tests(PLACE, "test_the_database_refuses_to_change_a_settled_order"),
    ),
    Mutant(
        "an order ends though it has ended, and the database lets it",
        [GUARD, TRIGGER],
        tests(PLACE, "test_an_order_settled_twice_has_one_event"),
    ),
    Mutant(
        "a missing reply counts as a refusal",
        [
            Replace(
                "orders.domain:settlement_of",
                "return None",
                'return Settlement(order_id, "rejected", "timeout")',
            )
        ],
        tests(
            "orders/tests/unit/test_domain.py", "test_no_other_outcome_settles_an_order"
        ),
    ),
    Mutant(
        "sweepers wait for each other",
        [ReplaceText("orders.store:CLAIM_DUE", "FOR UPDATE SKIP LOCKED")],
        tests(
            STORE,
            "test_concurrent_sweepers_share_the_due_orders_without_waiting",
        ),
    ),
    Mutant(
        "an order is swept without a lease",
        [
            ReplaceText(
                "orders.store:CLAIM_DUE",
                "next_attempt_at = now() + :lease",
                "next_attempt_at = next_attempt_at + 0 * CAST(:lease AS interval)",
            )
        ],
        tests(
            STORE,
            "test_a_claimed_order_is_due_again_only_after_its_lease",
        ),
    ),
    # The story of an order.
    Mutant(
        "a story shows the order of another user",
        [
            ReplaceText(
                "orders.store:SELECT_HISTORY",
                "AND user_id = CAST(:user_id AS uuid)",
                "AND CAST(:user_id AS uuid) IS NOT NULL",
            )
        ],
        tests(HISTORY, "test_a_history_is_visible_to_its_user_only"),
    ),
    Mutant(
        "a story shows the withdrawal of another user",
        [
            Replace(
                "billing.service:Service.get_withdrawal",
                "found and found.user_id == user_id",
                "found",
            )
        ],
        tests(WITHDRAWAL, "test_a_withdrawal_is_visible_to_its_user_only"),
    ),
    Mutant(
        "an event that the outbox has deleted counts as unpublished",
        [
            ReplaceText(
                "orders.store:SELECT_HISTORY",
                "orders.status <> 'pending' AND event_id IS NULL",
                "false",
            )
        ],
        tests(
            HISTORY,
            "test_a_publication_is_unknown_once_the_outbox_has_deleted_the_event",
        ),
    ),
    Mutant(
        "a story waits for a frozen service as long as other requests",
        [SetValue("gateway.service:STORY_TIMEOUT_S", "60.0")],
        tests(
            "gateway/tests/interface/test_story.py",
            "test_the_wait_for_frozen_services_is_shorter_than_the_usual_timeout",
        ),
    ),
    # The ledger.
    Mutant(
        "a refusal is not stored",
        [UNSTORED_REFUSAL],
        tests(BOOKS, "test_a_refusal_is_recorded_and_moves_no_money"),
    ),
    Mutant(
        "a refusal is not stored, seen by a client",
        [UNSTORED_REFUSAL],
        tests(
            LEDGER,
            "test_a_refusal_stays_final_after_a_deposit",
        ),
    ),
    Mutant(
        "the balance is read without a lock",
        [ReplaceText("billing.store:LOCK_ACCOUNTS", "FOR UPDATE")],
        tests(LEDGER, "test_concurrent_withdrawals_never_overdraw_an_account"),
    ),
    Mutant(
        "a withdrawal may exceed the balance by a cent",
        [
            Replace(
                "billing.domain:_refusal_reason",
                "request.amount_minor > account.balance_minor",
                "request.amount_minor > account.balance_minor + 1",
            )
        ],
        tests(BOOKS, "test_a_refusal_is_recorded_and_moves_no_money"),
    ),
    Mutant(
        "a batch forgets its own balances",
        [Drop("billing.domain:decide", "current[account.user_id]")],
        tests(BOOKS, "test_balances_change_by_exactly_the_done_operations"),
    ),
    Mutant(
        "another user's ref is accepted",
        [Replace("billing.domain:_matches", "operation.user_id", "request.user_id")],
        tests(BOOKS, "test_a_ref_with_another_amount_kind_or_user_is_a_conflict"),
    ),
    Mutant(
        "a client's key can be an order's ref",
        [
            Replace(
                "billing.domain:ref_of",
                "f\"order:{item['order_id']}\"",
                "f\"key:{item['user_id']}:{item['order_id']}\"",
            )
        ],
        tests(LEDGER, "test_no_key_or_ref_collides_with_the_ref_of_an_order"),
    ),
    Mutant(
        "all users share their keys",
        [
            Replace(
                "billing.domain:ref_of",
                "f\"key:{item['user_id']}:{item['key']}\"",
                "f\"key:{item['key']}\"",
            )
        ],
        tests(LEDGER, "test_two_users_may_use_the_same_key"),
    ),
    Mutant(
        "a cancellation has a ref of its own",
        [
            SetArgument(
                "billing.service:Service._post",
                "PostingRequest",
                "ref",
                'domain.ref_of(item) + (":cancelled" if cancels else "")',
            )
        ],
        tests(LEDGER, "test_a_cancelled_withdrawal_never_happens"),
    ),
    Mutant(
        "a batch with conflicting refs is tried without end",
        [SetValue("billing.service:MAX_POST_ATTEMPTS", "100_000")],
        tests(
            LEDGER,
            "test_refs_that_conflict_in_each_attempt_end_in_unavailable",
        ),
    ),
    # Migrations.
    Mutant(
        "a migration that waits for a lock blocks queries",
        [
            ReplaceText(
                "chassis.migrate:LIMITS", "lock_timeout = '1s'", "lock_timeout = 0"
            )
        ],
        tests(
            MIGRATIONS,
            "test_a_migration_that_waits_for_a_lock_does_not_block_queries",
        ),
    ),
    Mutant(
        "an index build has a time limit",
        [
            ReplaceText(
                "chassis.migrate:without_limits", "SET statement_timeout = 0", "SELECT"
            )
        ],
        tests(
            MIGRATIONS,
            "test_index_builds_have_no_time_limit_and_migrations_take_turns",
        ),
    ),
    Mutant(
        "several migrations run at once",
        [
            ReplaceText(
                "chassis.migrate:TRY_ADVISORY_LOCK",
                "pg_try_advisory_xact_lock(7369001)",
                "true",
            )
        ],
        tests(
            MIGRATIONS,
            "test_index_builds_have_no_time_limit_and_migrations_take_turns",
        ),
    ),
    # The outbox.
    Mutant(
        "an order ends without its event",
        [
            ReplaceText(
                "orders.store:SETTLE", "FROM settled)", "FROM settled WHERE false)"
            )
        ],
        tests(PLACE, "test_a_settlement_and_its_event_are_stored_together"),
    ),
    Mutant(
        "a user is stored before its event",
        [
            Replace(
                "users.service:Service.create",
                "self.db.transaction()",
                "self.db.autocommit()",
            )
        ],
        tests(USERS, "test_a_user_and_its_event_are_stored_together"),
    ),
    Mutant(
        "two replays run at once",
        [ReplaceText("replay.outbox:LOCK", "pg_advisory_xact_lock(%s)", "%s")],
        tests(REPLAY, "test_two_replays_at_once_write_one_event_for_each_order"),
    ),
    Mutant(
        "a replay doubles an event that is still in the outbox",
        [SetCondition("replay.outbox:write", "marked", "True")],
        tests(REPLAY, "test_an_event_in_the_outbox_is_marked_as_unsent"),
    ),
    Mutant(
        "a replay counts an event in flight as lost",
        [SetCondition("replay.outbox:write", "in_flight", "True")],
        tests(REPLAY, "test_an_event_in_flight_stays_unchanged"),
    ),
    Mutant(
        "an event without a queue is marked as sent",
        [SetCondition("chassis.outbox:Outbox._publish", "not is_routed")],
        tests(OUTBOX, "test_an_event_without_a_queue_is_published_later"),
    ),
    Mutant(
        "relays do not skip the rows of another",
        [ReplaceText("chassis.outbox:TAKE_UNSENT", "FOR UPDATE SKIP LOCKED")],
        tests(OUTBOX, "test_two_relays_publish_each_event_once"),
    ),
    Mutant(
        "each pass of the relay begins at the start",
        [
            Replace(
                "chassis.outbox:Outbox._begin_pass",
                "MIN_ID if self._has_missed_events else self._position",
                "MIN_ID",
            )
        ],
        tests(
            POSITION,
            "test_a_pass_does_not_read_events_sent_since_the_oldest_snapshot",
        ),
    ),
    Mutant(
        "an event below the position is not noticed",
        [Replace("chassis.outbox:Outbox._measure", "below > 0", "False")],
        tests(
            POSITION,
            "test_an_event_of_a_clock_that_is_an_hour_behind_is_published",
            "test_every_event_is_published_with_clocks_that_differ",
        ),
    ),
    Mutant(
        "the position passes events that are not committed yet",
        [
            Replace(
                "chassis.outbox:Outbox._begin_pass", "self._uncommitted.values()", "()"
            )
        ],
        tests(POSITION, "test_an_event_that_is_committed_late_is_published_at_once"),
    ),
    Mutant(
        "the position passes events that could not be published",
        [
            Prepend(
                "chassis.outbox:Outbox._begin_pass",
                "self._position = self._next_position",
            )
        ],
        tests(POSITION, "test_the_position_does_not_move_while_publishing_fails"),
    ),
    Mutant(
        "an order that the sweeper missed is not noticed",
        [Drop("orders.service:Service.measure", "Service.search_all")],
        tests(SWEEPER, "test_orders_that_sweeps_missed_are_settled"),
    ),
    # Publishing and handling.
    Mutant(
        "publishing is not mandatory",
        [
            SetArgument(
                "chassis.broker:PublisherConnection.publish",
                "basic_publish",
                "mandatory",
                "False",
            )
        ],
        tests(PUBLISHERS, "test_each_message_without_a_queue_is_reported"),
    ),
    Mutant(
        "the publisher does not wait for confirms",
        [
            Replace(
                "chassis.publishers:ConfirmedPublisher.publish",
                "confirms.wait()",
                "[True] * len(messages)",
            )
        ],
        [
            *tests(
                EVENTS, "test_without_a_dead_letter_queue_an_event_stays_in_its_queue"
            ),
            *tests(
                PUBLISHERS,
                "test_the_publisher_works_after_a_refused_message",
            ),
        ],
    ),
    Mutant(
        "an event is acked before it is handled",
        [
            Replace(
                "chassis.events:EventHandler._handle",
                "attempt = self._attempt(batch)",
                "self._ack(batch, batch); attempt = self._attempt(batch)",
            ),
            Drop(
                "chassis.events:EventHandler._retry_or_dead_letter",
                "self._ack",
                mentions="moved",
            ),
        ],
        tests(
            EVENTS,
            "test_an_event_of_a_killed_handler_is_handled_by_the_next_one",
        ),
    ),
    Mutant(
        "a dead letter is acked though it was not confirmed",
        [
            SetCondition(
                "chassis.events:EventHandler._retry_or_dead_letter",
                "self._hold_dead_letters",
            ),
            Replace("chassis.events:EventHandler._retry_or_dead_letter", "moved = []"),
        ],
        tests(UNIT_EVENTS, "test_no_event_is_lost_after_any_failures"),
    ),
    Mutant(
        "an ack covers an event that is held",
        [
            Replace(
                "chassis.events:EventHandler._ack",
                "self.held.lowest_tag()",
                'float("inf")',
            )
        ],
        tests(EVENTS, "test_no_ack_covers_a_held_event"),
    ),
    Mutant(
        "an ack covers an event of its batch that is not finished",
        [
            Replace(
                "chassis.events:EventHandler._ack",
                "[self.held.lowest_tag(), *unfinished]",
                "[self.held.lowest_tag()]",
            )
        ],
        tests(UNIT_EVENTS, "test_no_event_is_lost_after_any_failures"),
    ),
    Mutant(
        "half of a failed batch is not tried",
        [
            Replace(
                "chassis.retries:BatchAttempt.handle", "self.handle(events[middle:])"
            )
        ],
        tests(
            EVENTS,
            "test_a_malformed_event_in_a_batch_is_dead_lettered_alone",
        ),
    ),
    Mutant(
        "an unavailable database exhausts an event",
        [Return("chassis.retries:own_dependency_failed", "False")],
        tests(EVENTS, "test_an_event_is_retried_until_the_database_is_available"),
    ),
    Mutant(
        "a lock on one row pauses the handler",
        [
            Replace(
                "chassis.retries:own_dependency_failed", "is_contention(exc)", "False"
            )
        ],
        tests(RETRIES, "test_other_errors_do_not_pause_the_handler"),
    ),
    Mutant(
        "a probe that fails ends the pause",
        [
            Replace(
                "chassis.events:EventHandler._handle", "attempt.method_returned", "True"
            ),
            SetCondition(
                "chassis.events:EventHandler._finish", "attempt.method_returned"
            ),
        ],
        tests(EVENTS, "test_a_malformed_probe_does_not_end_a_pause"),
    ),
    Mutant(
        "a handler that pauses goes on consuming",
        [
            Replace(
                "chassis.events:EventHandler._pause",
                "self._set_prefetch(0)",
                "self._set_prefetch(PREFETCH)",
            )
        ],
        tests(
            EVENTS,
            "test_the_queue_of_a_paused_handler_has_no_consumer",
        ),
    ),
    Mutant(
        "a failed call to another service exhausts an event",
        [
            Replace(
                "chassis.retries:Delivery.record_attempt",
                "not (isinstance(exc, FAULTS) or is_contention(exc))",
                "True",
            )
        ],
        tests(RETRIES, "test_a_failed_call_delays_an_event_and_never_exhausts_it"),
    ),
    Mutant(
        "an event is retried at once",
        [Replace("chassis.retries:HeldDeliveries.hold", "delivery.delay_s()", "0")],
        tests(EVENTS, "test_retries_wait_for_their_delays"),
    ),
    Mutant(
        "the number of held events has no limit",
        [
            Replace(
                "chassis.retries:HeldDeliveries.has_room_for",
                "len(self) < MAX_HELD",
                "True",
            )
        ],
        tests(RETRIES, "test_the_number_of_held_events_is_limited"),
    ),
    Mutant(
        "events are dead-lettered though all fail with one error",
        [SetValue("chassis.retries:MAX_SAME_FAILURES", "3_000")],
        tests(
            EVENTS,
            "test_a_handler_pauses_when_different_events_have_one_error",
        ),
    ),
    Mutant(
        "malformed events block those behind them",
        [
            Replace(
                "chassis.events:EventHandler._finish",
                "self._move_probe(batch, attempt, same_failure)",
                'same_failure or "not yet"',
            )
        ],
        tests(
            EVENTS,
            "test_malformed_events_do_not_block_a_good_one",
        ),
    ),
    Mutant(
        "an event without a recipient is dropped",
        [
            SetCondition(
                "notifications.service:Service._write_letters", 'event["user_id"]'
            )
        ],
        tests(LETTERS, "test_a_letter_waits_until_its_recipient_is_known"),
    ),
    Mutant(
        "redriving is not mandatory",
        [
            SetArgument(
                "chassis.dead_letters:redrive",
                "channel.basic_publish_confirm",
                "mandatory",
                "False",
            )
        ],
        tests(
            DEAD,
            "test_a_missing_queue_ends_the_command_without_loss",
        ),
    ),
    Mutant(
        "redriving goes on while there are dead letters",
        [
            Replace(
                "chassis.dead_letters:redrive",
                "range(_count(channel, handler.dead_letter_queue))",
                "iter(lambda: _count(channel, handler.dead_letter_queue), 0)",
            )
        ],
        tests(DEAD, "test_events_that_fail_again_at_once_are_moved_once"),
    ),
    # Queues whose limits the broker decides.
    Mutant(
        "the migration returns a message only twice",
        [Replace("chassis.broker_checks:_return_often", "RETURNS", "1")],
        tests(LIMITS, "test_a_policy_that_drops_events_is_refused_by_name"),
    ),
    Mutant(
        "a killed migration leaves its scratch queues",
        [
            SetArgument(
                "chassis.broker_checks:_check",
                "channel.queue_declare",
                "arguments",
                "{}",
            )
        ],
        tests(LIMITS, "test_scratch_queues_of_a_killed_migration_expire"),
    ),
    # Excessive permissions of a broker user.
    Mutant(
        "a broker user may use every routing key",
        [
            DropKey(
                "chassis.broker_checks:check_broker_user",
                '"routing keys of nameko-rpc"',
            )
        ],
        tests(BROKER_USER, "test_each_excessive_right_is_named"),
    ),
    Mutant(
        "a service starts though its broker user may do too much",
        [
            SetCondition(
                "chassis.container:Container._check_broker_user",
                "self._must_be_restricted",
                "True",
            )
        ],
        tests(
            BROKER_USER,
            "test_a_service_waits_until_its_user_is_restricted",
        ),
    ),
    Mutant(
        "the migrations run with a broker user that may do too much",
        [Drop("chassis.migrate:main", "check_broker_user")],
        tests(BROKER_USER, "test_migrations_end_with_one_line"),
    ),
    Mutant(
        "a refused login is taken for missing migrations",
        [Replace("chassis.cli:error_line", "MISSING_QUEUE", "(312, 403, 404)")],
        tests(
            COMMAND,
            "test_the_line_names_the_cause",
        ),
    ),
    # Required settings of a database.
    Mutant(
        "a database with another encoding is accepted",
        [
            Replace(
                "chassis.database_checks:REQUIRED",
                '("UTF8",)',
                '("UTF8", "LATIN1", "SQL_ASCII")',
            )
        ],
        tests(DATABASE, "test_a_service_refuses_a_database_that_is_not_utf8"),
    ),
    Mutant(
        "the role gets no time limits",
        [Drop("chassis.database_checks:ensure_time_limits", "_set_for_role")],
        tests(DATABASE, "test_the_first_start_stores_the_limits_for_the_role"),
    ),
    Mutant(
        "a pooler keeps a session without time limits",
        [
            ReplaceText(
                "chassis.database_checks:_set_for_role",
                "pg_terminate_backend(pg_backend_pid())",
                "1",
            )
        ],
        tests(POOLER, "test_an_order_is_paid_and_the_books_agree"),
    ),
    # Calls.
    Mutant(
        "a deadline is not passed on",
        [DropKey("chassis.rpc:RpcProxy._call", 'f"nameko.{TIMEOUT}"')],
        tests(
            "chassis/tests/interface/test_deadlines.py",
            "test_a_callee_does_not_wait_longer_than_its_caller",
        ),
    ),
    Mutant(
        "a request without a reply queue is accepted",
        [
            SetCondition(
                "chassis.rpc:RpcConsumer._reason_to_drop", '"reply_to"', to="True"
            )
        ],
        tests(RPC, "test_a_poison_message_does_not_stop_the_service"),
    ),
    Mutant(
        "an error quotes the row that was refused",
        [Drop("chassis.database_limits:_hide_row", "exc.args")],
        tests(DATABASE_LIMITS, "test_an_error_does_not_quote_the_refused_row"),
    ),
    Mutant(
        "a body of any encoding is unpacked",
        [SetCondition("chassis.patches:_read_properties", '"content_encoding"')],
        tests(
            "chassis/tests/unit/test_properties.py",
            "test_no_body_is_decompressed_by_its_encoding",
        ),
    ),
    Mutant(
        "a callee adds headers to a response",
        [
            Replace(
                "gateway.service:Service.place_order",
                "quote(f\"/orders/{order['id']}\")",
                "f\"/orders/{order['id']}\"",
            )
        ],
        tests(
            "gateway/tests/interface/test_api.py",
            "test_a_callee_adds_no_header_to_a_response",
        ),
    ),
    Mutant(
        "the publisher of an event chooses the queues of its copies",
        [Replace("chassis.events:copied_headers", "ROUTING_HEADERS", "set()")],
        tests(DEAD, "test_a_redriven_event_has_no_headers_of_its_attempts"),
    ),
    Mutant(
        "a dead-lettered request is executed",
        [SetCondition("chassis.rpc:RpcConsumer._reason_to_drop", "X_DEATH")],
        tests(RPC, DETOUR),
    ),
    Mutant(
        "a request from another exchange is executed",
        [
            SetCondition(
                "chassis.rpc:RpcConsumer._reason_to_drop", "self.queue.exchange.name"
            )
        ],
        tests(RPC, DETOUR),
    ),
    Mutant(
        "a withdrawn call is sent",
        [
            Replace(
                "chassis.publishers:TransientPublisher._withdraw_all",
                "queued.withdraw()",
                "True",
            )
        ],
        tests(PUBLISHERS, "test_a_withdrawn_message_is_reported_and_never_sent"),
    ),
    Mutant(
        "a fault of a service's own call is passed to its caller",
        [SetCondition("chassis.rpc:RpcConsumer._serialize_fault", "NotReceived")],
        tests(
            RPC,
            "test_not_received_is_not_passed_on_to_callers",
        ),
    ),
    Mutant(
        "a method of a later version fails as an internal error",
        [SetCondition("chassis.rpc:RpcProxy._result", "MethodNotFound")],
        tests(
            RPC,
            "test_a_method_that_an_earlier_version_does_not_have_is_not_received",
        ),
    ),
    # Permissions.
    Mutant(
        "a service may call any method",
        [Replace("dev.bus:permissions", "map(literal, requests)", '["[a-z_.]+"]')],
        tests(
            "dev/tests/unit/test_bus.py",
            "test_a_user_may_call_only_the_listed_methods",
        ),
    ),
    Mutant(
        "another user's order is shown",
        [
            SetArgument(
                "gateway.service:Service.get_order", "self.orders.get", "user_id", None
            )
        ],
        tests(
            "tests/system/test_permissions.py",
            "test_a_route_permits_what_the_table_says",
        ),
    ),
    # The gateway.
    Mutant(
        "a gateway without a broker is not started",
        [
            Replace(
                "chassis.health:PATHS", 'partial(_readiness, " started")', "_readiness"
            )
        ],
        tests(HEALTH, "test_startedz_runs_only_the_checks_of_the_start"),
    ),
    Mutant(
        "idle connections keep probes out",
        [SetCondition("chassis.health:_accept_newest", "MAX_CONNECTIONS")],
        tests(HEALTH, "test_idle_connections_do_not_block_a_probe"),
    ),
    Mutant(
        "all interfaces are only those of IPv6",
        [
            SetArgument(
                "chassis.health:listen",
                "socket.create_server",
                "dualstack_ipv6",
                "False",
            )
        ],
        tests(HEALTH, "test_all_interfaces_include_both_families"),
    ),
    Mutant(
        "a kernel without IPv6 has no interfaces",
        [Replace("chassis.health:listen", "socket.has_dualstack_ipv6()", "True")],
        tests(HEALTH, "test_all_interfaces_are_those_of_ipv4_without_ipv6"),
    ),
    Mutant(
        "a client of IPv4 differs on a socket of both families",
        [Replace("gateway.dispatcher:normalize", "address.ipv4_mapped", "None")],
        tests(CLIENTS, "test_an_ipv4_client_is_the_same_on_a_socket_of_both_families"),
    ),
    Mutant(
        "each address of IPv6 is a client of its own",
        [
            Replace(
                "gateway.dispatcher:normalize",
                "IPv6Address(int(address) >> 72 << 72)",
                "address",
            )
        ],
        tests(CLIENTS, "test_an_ipv6_client_is_its_56_bit_network"),
    ),
    Mutant(
        "busy connections make room for new ones",
        [
            Replace(
                "gateway.http.connection:ClientConnection.has_idled",
                "self.phase == IDLE",
                "True",
            )
        ],
        tests(
            "gateway/tests/interface/test_connections.py",
            "test_one_connection_too_many_is_rejected_if_all_others_are_busy",
        ),
    ),
    Mutant(
        "a client with all connections excludes others",
        [
            Replace(
                "gateway.http.server:WebServer._make_room",
                "connection.client in greedy",
                "False",
            )
        ],
        tests(SERVER, "test_the_client_with_most_connections_loses_one"),
    ),
    Mutant(
        "a request in progress is cancelled for a new connection",
        [
            Replace(
                "gateway.http.server:WebServer._make_room",
                "connection.phase < IN_PROGRESS",
                "connection.phase <= IN_PROGRESS",
            )
        ],
        tests(SERVER, "test_a_request_in_progress_is_never_cut_off"),
    ),
    Mutant(
        "the connections of a client that has few make room for one that has many",
        [
            Replace(
                "gateway.http.server:WebServer._make_room",
                "counts[connection.client] >= counts[client]",
                "True",
            )
        ],
        tests(
            SERVER,
            "test_the_client_with_most_connections_loses_only_its_own",
        ),
    ),
    Mutant(
        "a client whose requests all wait protects one that sends slowly",
        [
            Replace(
                "gateway.http.server:WebServer._make_room",
                "(counts[connection.client] for connection in closable)",
                "counts.values()",
            )
        ],
        tests(
            SERVER,
            "test_a_client_whose_requests_all_wait_does_not_shield_another_one",
        ),
    ),
    Mutant(
        "waiting requests may use all connections",
        [
            Replace(
                "gateway.http.server:WebServer.check",
                "self._max_connections // 2",
                "self._max_connections",
            )
        ],
        tests(WAITS, "test_half_of_the_connections_wait_and_others_are_served"),
    ),
    Mutant(
        "a stop leaves requests waiting",
        [Drop("gateway.http.server:WebServer.drain", "self.waiting.release")],
        tests(WAITS, "test_a_stop_ends_all_waits_and_no_request_waits_after_it"),
    ),
    Mutant(
        "a waiting request holds a worker",
        [
            Replace(
                "gateway.service:Service.get_order",
                "schemas.ORDER.dump(order)",
                'self.waiting.apply("wait=30", schemas.ORDER.dump(order))[0]',
            )
        ],
        tests(WAITS, "test_many_waiting_requests_take_no_worker_and_one_read_a_second"),
    ),
    Mutant(
        "one client may use all workers",
        [SetValue("gateway.routes:MAX_CLIENT_SHARE", "1")],
        tests(
            "gateway/tests/interface/test_connections.py",
            "test_one_client_uses_at_most_its_share_of_the_workers",
        ),
    ),
    Mutant(
        "a length beside chunks is ignored",
        [
            Replace(
                "gateway.http.parser:_body_length",
                '"content-length" in headers',
                "False",
            )
        ],
        tests(
            "gateway/tests/unit/test_parser.py",
            "test_ambiguous_framing_is_rejected",
        ),
    ),
    Mutant(
        "any two bytes after a chunk are skipped",
        [SetCondition("gateway.http.body:ChunkedBody.split", 'b"\\r\\n"')],
        tests(
            "gateway/tests/unit/test_body.py",
            "test_malformed_chunks_are_rejected_however_they_arrive",
        ),
    ),
    Mutant(
        "a client chooses its own address",
        [Replace("gateway.dispatcher:client_address", "-1 - proxies", "None")],
        tests(
            CLIENTS,
            "test_a_client_is_the_peer_of_the_last_trusted_proxy",
        ),
    ),
    Mutant(
        "a large response is copied for each client",
        [
            Replace(
                "gateway.http.responses:Response.encode",
                "[head, memoryview(body)]",
                "[head + body]",
            )
        ],
        tests(
            "gateway/tests/unit/test_responses.py", "test_a_large_body_is_never_copied"
        ),
    ),
    Mutant(
        "caches may keep responses",
        [DropKey("gateway.http.responses:DEFAULT_HEADERS", '"Cache-Control"')],
        tests(
            "gateway/tests/unit/test_responses.py",
            "test_a_response_is_not_cached_or_sniffed_by_default",
        ),
    ),
    # Settings are text, and messages show no secret.
    Mutant(
        "the key of the tokens is read as YAML",
        [
            ReplaceInFile(
                "config.yaml", "!raw_env_var ${TOKEN_SECRET:}", "${TOKEN_SECRET:}"
            )
        ],
        tests(SETTINGS, "test_no_variable_is_parsed_as_yaml"),
    ),
    Mutant(
        "a secret and its file may both be set",
        [SetCondition("chassis.settings:read", "value")],
        tests(SETTINGS, "test_a_secret_cannot_be_set_twice"),
    ),
    Mutant(
        "a URI may have two unencoded @",
        [
            ReplaceText(
                "chassis.settings:DB_URI", "([^@:/]*(:[^@]*)?@)?", "([^@:/]*(:.*)?@)?"
            )
        ],
        tests(SETTINGS, "test_a_wrong_database_uri_is_reported_without_its_password"),
    ),
    Mutant(
        "the content of a wrong secret file is shown",
        [
            ReplaceText(
                "chassis.secret_files:read_secret",
                "must contain",
                "with {content!r} must contain",
            )
        ],
        tests(SECRET_FILES, "test_an_invalid_secret_is_reported_but_not_quoted"),
    ),
    Mutant(
        "a path that may be the secret is shown",
        [
            ReplaceText(
                "chassis.secret_files:read_secret", "it must be", "{path} must be"
            )
        ],
        tests(
            SECRET_FILES,
            "test_a_relative_path_is_not_shown",
        ),
    ),
    # One client cannot starve others, and text is never executed.
    Mutant(
        "passwords are hashed in the order of arrival",
        [
            SetArgument(
                "users.fair_queue:FairQueue._start_next",
                "min",
                "key",
                "lambda caller: 0",
            )
        ],
        tests(
            FAIR_QUEUE,
            "test_a_crowd_delays_another_caller_by_few_turns",
        ),
    ),
    Mutant(
        "usernames have no turn in the queue",
        [Replace("users.fair_queue:FairQueue._start_next", "self._turns % 2", "0")],
        tests(FAIR_QUEUE, "test_behind_a_proxy_usernames_share_the_slots"),
    ),
    Mutant(
        "a full queue refuses the next caller",
        [
            SetArgument(
                "users.fair_queue:FairQueue._admit",
                "max",
                "key",
                "lambda caller: 0",
            )
        ],
        tests(
            FAIR_QUEUE, "test_a_full_queue_gives_a_place_of_the_crowd_to_another_caller"
        ),
    ),
    Mutant(
        "the slot of a killed caller is lost",
        [Drop("users.fair_queue:FairQueue.slot", "self._working.discard")],
        tests(
            FAIR_QUEUE,
            "test_a_caller_killed_before_its_work_releases_the_slot",
        ),
    ),
    Mutant(
        "the client's address is not passed on",
        [Replace("chassis.rpc:RpcProxy._call", "current_client()", '""')],
        tests(RPC, "test_a_single_call_has_the_address_of_the_client"),
    ),
    Mutant(
        "a page of letters has no bound in bytes",
        [SetValue("notifications.store:MAX_PAGE_BYTES", "64 * 1024 * 1024")],
        tests(MESSAGES, "test_pages_are_bounded_in_bytes_and_complete"),
    ),
    Mutant(
        "a letter quotes an unknown reason of an event",
        [
            Replace(
                "notifications.domain:letter_text",
                'reasons["other"]',
                'order.reason or ""',
            )
        ],
        tests(
            "notifications/tests/unit/test_domain.py",
            "test_an_unknown_reason_is_not_quoted",
        ),
    ),
    Mutant(
        "a subject may contain an encoded word",
        [ReplaceText("notifications.schemas:SUBJECT", r"(?!.*=\?[^?]*\?[bBqQ]\?)")],
        tests(
            "notifications/tests/unit/test_schemas.py",
            "test_a_valid_subject_is_safe_in_an_email",
        ),
    ),
    Mutant(
        "an address may be an option of a mail command",
        [Drop("chassis.schemas:email_address", "_HEADER_SAFE")],
        tests("users/tests/unit/test_schemas.py", "test_an_unusual_address_is_invalid"),
    ),
    Mutant(
        "a long address is examined before it is refused",
        [Drop("chassis.schemas:email_address", "validate.Length(max=254)")],
        tests(
            "users/tests/unit/test_schemas.py",
            "test_a_long_address_is_rejected_before_it_is_parsed",
        ),
    ),
    Mutant(
        "two spellings of one domain are two addresses",
        [
            Replace(
                "users.domain:address_forms",
                "address.ascii_domain",
                'email.rpartition("@")[2].casefold()',
            )
        ],
        tests(
            "users/tests/unit/test_domain.py",
            "test_spellings_of_an_international_address_are_equal",
        ),
    ),
    Mutant(
        "the key of an address is not that of earlier versions",
        [
            Replace(
                "users.domain:address_forms", "address.ascii_domain", "address.domain"
            )
        ],
        tests(
            "users/tests/unit/test_domain.py",
            "test_an_ascii_address_has_the_key_of_earlier_versions",
        ),
    ),
    Mutant(
        "a region hides the language that a client accepts",
        [ReplaceText("gateway.schemas:accepted_locale", "[-_][a-z0-9]+", "[-_][A-Z]+")],
        tests(
            "gateway/tests/unit/test_schemas.py",
            "test_russian_is_chosen_if_preferred",
        ),
    ),
    Mutant(
        "a log line may contain control characters",
        [
            SetArgument(
                "chassis.logs:_JSON", "json.JSONEncoder", "ensure_ascii", "False"
            )
        ],
        tests(LOGS, "test_no_line_contains_control_or_direction_characters"),
    ),
    # Every service recovers without a restart.
    Mutant(
        "a pooled connection is used unchecked",
        [
            SetCondition(
                "chassis.database_limits:limit_waits.make_ready", "CHECK_IDLE_S"
            )
        ],
        tests(
            DATABASE_LIMITS,
            "test_no_request_fails_after_a_restart_of_the_database",
            "test_forgotten_idle_connections_fail_no_request",
        ),
    ),
    Mutant(
        "a wait for the database has no limit",
        [Replace("chassis.database_limits:wait", "limit_s or None", "None")],
        tests(
            DATABASE_LIMITS,
            "test_an_unanswered_statement_replaces_the_pool",
        ),
    ),
    Mutant(
        "a connection that may only read stays in the pool",
        [Return("chassis.errors:is_session_unusable", "False")],
        tests(
            DATABASE_LIMITS,
            "test_a_read_only_connection_is_replaced_after_an_error",
        ),
    ),
    Mutant(
        "a service that cannot write is ready",
        [SetCondition("chassis.db:Database._note_failure")],
        tests(
            DATABASE_LIMITS,
            "test_a_service_is_not_ready_after_a_refused_write",
            "test_a_full_disk_is_tried_again",
        ),
    ),
    Mutant(
        "a lost connection is reopened without consumers",
        [
            Replace(
                "chassis.consumer:QueueConsumer.consume",
                "(_, channel, _)",
                "(silent, channel, _)",
            ),
            Replace(
                "chassis.consumer:QueueConsumer.consume",
                "_open_connection(channel).drain_events",
                "silent.drain_events",
            ),
            Replace(
                "chassis.consumer:QueueConsumer.consume",
                "_open_connection(channel).heartbeat_tick",
                "silent.heartbeat_check",
            ),
        ],
        tests(CONTAINER, "test_all_consumers_return_after_an_unnoticed_loss"),
    ),
    Mutant(
        "a connection is shut down at TLS and not at TCP",
        [
            Replace(
                "chassis.consumer:_cut_off",
                "tcp.shutdown",
                "connection.transport.sock.shutdown",
            )
        ],
        tests(TLS, "test_a_connection_that_is_cut_off_is_replaced"),
    ),
    Mutant(
        "the end of a connection waits for the end of TLS",
        [DropDefinition("chassis.amqp_transport:TlsTransport._shutdown_transport")],
        tests(TLS, "test_closing_a_connection_does_not_wait_for_tls"),
    ),
    Mutant(
        "a timer depends on the time of day",
        [DropDefinition("chassis.timers:Timer._run")],
        tests(LOOPS, "test_a_timer_continues_when_the_time_of_day_is_set_back"),
    ),
    Mutant(
        "a stuck loop is ready",
        [SetCondition("chassis.loops:LoopWatch.check")],
        tests(LOOPS, "test_a_timer_with_a_stuck_run_is_not_ready"),
    ),
    # Names.
    Mutant(
        "libpq looks up the names of databases",
        [SetCondition("chassis.lookups:connect", "needs_lookup")],
        tests(
            LOOKUPS,
            "test_a_service_follows_the_address_of_its_database",
        ),
    ),
    Mutant(
        "only the first address of a database is tried",
        [
            Replace(
                "chassis.lookups:connect",
                'resolve(target["host"])',
                'resolve(target["host"])[:1]',
            )
        ],
        tests(LOOKUPS, "test_the_next_address_is_tried_after_a_refusal"),
    ),
    Mutant(
        "an address is not used before the name server has answered for both families",
        [
            Replace(
                "chassis.lookups:resolve",
                "IPV6_TIMEOUT_S if addresses else None",
                "None",
            )
        ],
        tests(LOOKUPS, "test_a_broker_is_ready_with_an_unreliable_name_server"),
    ),
    Mutant(
        "each address of a database has the time of the last",
        [
            Replace(
                "chassis.lookups:connect", "NEXT_ADDRESS_AFTER_S", "CONNECT_TIMEOUT_S"
            )
        ],
        tests(LOOKUPS, "test_silent_addresses_of_a_database_are_skipped"),
    ),
    Mutant(
        "each address of the broker has all the time",
        [
            Replace(
                "chassis.amqp_transport:_BufferedTransport._connect",
                "timeout / (1 + len(others))",
                "timeout",
            )
        ],
        tests(LOOKUPS, "test_silent_addresses_of_a_broker_are_skipped"),
    ),
    Mutant(
        "a timeout of the sender counts as a refusing address",
        [
            Replace(
                "chassis.publishers:TransientPublisher._connected",
                "kombu.exceptions.OperationalError",
                "ConnectionError",
            )
        ],
        tests(LOOKUPS, "test_the_timeout_of_a_publisher_covers_all_addresses"),
    ),
    Mutant(
        "a standby is accepted as the primary",
        [SetCondition("chassis.lookups:refuse_read_only")],
        tests(LOOKUPS, "test_a_standby_is_skipped", "test_migrations_skip_a_standby"),
    ),
    Mutant(
        "migrations connect to the first server",
        [Drop("chassis.migrate:_engine", "event.listen")],
        tests(LOOKUPS, "test_migrations_skip_a_standby"),
    ),
    # Passwords and values reach only the processes that need them.
    Mutant(
        "every process gets the passwords of all databases",
        [SetCondition("dev.servers:uri_names", "MIGRATIONS", "user")],
        tests(COPIES, "test_a_copy_gets_the_secrets_of_its_service_only"),
    ),
    Mutant(
        "a command without a user gets the terminal's secrets",
        [SetCondition("dev.cli:_public_variables", "PRIVATE", "True")],
        tests(COPIES, "test_a_command_without_a_user_gets_no_secret"),
    ),
    Mutant(
        "commands use a proxy for the suite",
        [Replace("dev.cli:Suite.environ", "without_proxy(os.environ)", "{}")],
        tests(COPIES, "test_commands_bypass_proxies"),
    ),
    Mutant(
        "all checkouts share one project of compose",
        [
            ReplaceInFile(
                "dev/images/passwords.sh",
                "project=shop-$(random_hex 3)",
                "project=shop",
            )
        ],
        tests(
            "dev/tests/unit/test_images.py",
            "test_each_checkout_has_a_project_name_that_stays",
        ),
    ),
    Mutant(
        "an installation reuses the files of a killed one",
        [ReplaceInFile("dev/install.sh", "[ -e .venv/.unfinished ] || ", "")],
        tests(
            "dev/tests/unit/test_install.py",
            "test_an_unfinished_installation_is_replaced",
        ),
    ),
    Mutant(
        "other users may write the programs that root starts",
        [
            Replace(
                "dev.supervisor:Supervisor.begin",
                "write_private(config, self._config(programs))",
                "config.write_text(self._config(programs))",
            )
        ],
        tests(
            "dev/tests/unit/test_supervisor.py",
            "test_other_users_can_neither_write_files_nor_read_variables",
        ),
    ),
    Mutant(
        "a percent sign in the path ends the migrations",
        [
            Replace(
                "chassis.migrate:migrate_tables",
                'str(folder).replace("%", "%%")',
                "str(folder)",
            )
        ],
        tests(
            "chassis/tests/interface/test_migrations.py",
            "test_the_path_of_the_checkout_may_contain_a_percent_sign",
        ),
    ),
    Mutant(
        "all users may read the variables of a program",
        [SetValue("dev.passwords:PRIVATE", "0o644")],
        tests(
            "dev/tests/unit/test_supervisor.py",
            "test_other_users_can_neither_write_files_nor_read_variables",
        ),
    ),
    Mutant(
        "a failed statement is in PostgreSQL's log",
        [DropKey("dev.servers:POSTGRESQL_SETTINGS", '"log_min_error_statement"')],
        tests(SERVERS, "test_the_log_of_postgresql_has_no_values"),
    ),
    Mutant(
        "the details of an error are in PostgreSQL's log",
        [DropKey("dev.servers:POSTGRESQL_SETTINGS", '"log_error_verbosity"')],
        tests(SERVERS, "test_the_log_of_postgresql_has_no_values"),
    ),
    Mutant(
        "a role may use all connections of PostgreSQL",
        [SetValue("dev.servers:SERVICE_CONNECTIONS", "600")],
        tests(SERVERS, "test_no_role_can_use_all_connections"),
    ),
    Mutant(
        "the known password of an earlier version stays",
        [Drop("dev.servers:Servers._definitions", "found[kind]")],
        tests(SERVERS, "test_the_known_password_of_an_earlier_version_is_replaced"),
    ),
    Mutant(
        "migrations declare exchanges that no service publishes to",
        [SetCondition("chassis.migrate:declare_queues", "Outbox", "True")],
        tests("chassis/tests/interface/test_migrations.py", OWN_EXCHANGES),
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="only those whose tests need no server"
    )
    parser.add_argument("words", nargs="*", metavar="word", help="default: all mutants")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if all(word in m.name for word in options.words)]
    chosen = [m for m in chosen if m.is_quick or not options.quick]
    if not chosen:
        # pytest without a name would run all tests.
        parser.error("no mutant has these words")
    with tempfile.TemporaryDirectory(prefix="shop-mutants-") as folder:
        return judge(chosen, Path(folder))


def judge(mutants: Sequence[Mutant], folder: Path) -> int:
    """Run all mutants and print a line each. Return 0 if the tests notice every one."""
    named = sorted({test for mutant in mutants for test in mutant.tests})
    code, red, seconds = run_tests(copy_to(folder / "as-it-is"), named)
    result = f"{len(named)} tests on the code as it is: exit code {code} {red}"
    print(f"{seconds:5.0f} s  {result}", flush=True)
    if code != 0:
        return 1
    noticed = [mutant for mutant in mutants if is_noticed(mutant, folder / "mutant")]
    print(f"{len(noticed)} of {len(mutants)} mutants noticed")
    return 0 if len(noticed) == len(mutants) else 1


def is_noticed(mutant: Mutant, root: Path) -> bool:
    """Whether one of its tests failed. An error before the test does not count."""
    copy_to(root)
    for change in mutant.changes:
        change.apply(root)
    code, red, seconds = run_tests(root, mutant.tests)
    shutil.rmtree(root)
    noticed = code == FAILED and bool(red)
    verdict = red if noticed else f"NOT NOTICED (exit code {code})"
    print(f"{seconds:5.0f} s  {mutant.name}: {verdict}", flush=True)
    return noticed


def copy_to(root: Path) -> Path:
    """Copy the tracked files as they are now, with the environment of the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, root / name)
    (root / ".venv").symlink_to(CHECKOUT / ".venv")
    return root


def run_tests(root: Path, named: Iterable[str]) -> tuple[int, str, float]:
    """Return pytest's exit code, the first failed test, and the duration in seconds."""
    report = root / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        f"--junitxml={report}",
        *named,
    ]
    started = time.monotonic()
    try:
        ran = subprocess.run(command, cwd=root, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return -1, "", time.monotonic() - started
    return ran.returncode, _first_failure(report), time.monotonic() - started


def _first_failure(report: Path) -> str:
    cases = ET.parse(report).iter("testcase") if report.exists() else ()
    return next(
        (case.attrib["name"] for case in cases if case.find("failure") is not None), ""
    )


if __name__ == "__main__":
    sys.exit(main())
