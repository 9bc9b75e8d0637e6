"""Takes promises away, one by one: `python -m tests.mutants [--quick] [word ...]`. Could the tests fail?

Each mutant is the code without one thing that a promise stands on. It is made in a copy of the files
that git tracks, where the tests run that should notice: one of them must fail. Before, the same tests
must pass on the code as it is. A word picks the mutants whose names hold it.
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

CHECKOUT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300  # of one run of tests
FAILED = 1  # pytest's exit code; others say that the tests could not be run

BOOKS, LEDGER = (
    "billing/tests/unit/test_domain.py",
    "billing/tests/interface/test_ledger.py",
)
PLACE, SWEEPER = (
    "orders/tests/interface/test_place.py",
    "orders/tests/interface/test_sweeper.py",
)
LETTERS, USERS = (
    "notifications/tests/interface/test_letters.py",
    "users/tests/interface/test_users.py",
)
AMQP, EVENTS = (
    "chassis/tests/interface/test_amqp.py",
    "chassis/tests/interface/test_events.py",
)
POSITION = "chassis/tests/interface/test_outbox_position.py"
MIGRATIONS = "chassis/tests/interface/test_migration_limits.py"
OUTBOX, RPC = (
    "chassis/tests/interface/test_outbox.py",
    "chassis/tests/interface/test_rpc.py",
)
RETRIES = "chassis/tests/unit/test_retries.py"
UNIT_EVENTS = "chassis/tests/unit/test_events.py"
DEAD, STORE = (
    "chassis/tests/interface/test_dead.py",
    "orders/tests/interface/test_store.py",
)
REPLAY = "replay/tests/interface/test_command.py"
LIMITS = "chassis/tests/interface/test_queue_limits.py"
BROKER_USER, COMMAND = (
    "chassis/tests/interface/test_broker_user.py",
    "chassis/tests/unit/test_command.py",
)
HEALTH = "chassis/tests/unit/test_health.py"
CONNECTIONS = "chassis/tests/interface/test_connections.py"
CONTAINER, LOOPS = (
    "chassis/tests/interface/test_container.py",
    "chassis/tests/unit/test_loops.py",
)
WEB, READING = "gateway/tests/unit/test_web.py", "gateway/tests/unit/test_reading.py"
MONEY = "gateway/tests/unit/test_money.py"
LOOKUPS = "chassis/tests/interface/test_lookups.py"
DATABASE = "chassis/tests/interface/test_database_checks.py"
POOLER = "tests/system/test_pooler.py"
TLS = "chassis/tests/interface/test_tls.py"
SETTINGS = "chassis/tests/unit/test_settings.py"
SECRET_FILES = "chassis/tests/unit/test_secret_files.py"
FAIR_QUEUE, LOGS = (
    "users/tests/unit/test_fair_queue.py",
    "chassis/tests/unit/test_logs.py",
)
MESSAGES = "notifications/tests/interface/test_messages.py"
COPIES, SERVERS = "dev/tests/unit/test_copies.py", "dev/tests/interface/test_servers.py"


@dataclass(frozen=True)
class Change:
    """One place: `old` stands in `file` exactly once, and becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Raises ValueError where the text is not there, or more than once: then the list is out of date."""
        path = root / self.file
        text = path.read_text()
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} has {found} of {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Mutant:
    """A promise taken away, and the tests (`file::name`) of which one must notice."""

    name: str
    changes: Sequence[Change]
    tests: Sequence[str]

    @property
    def is_quick(self) -> bool:
        """Whether its tests need no server."""
        return all("/unit/" in test for test in self.tests)


def tests(file: str, *names: str) -> list[str]:
    return [f"{file}::{name}" for name in names]


OWN_EXCHANGES = "test_only_services_with_an_outbox_have_an_exchange_of_events"
DETOUR = "test_a_request_whose_routing_key_the_broker_has_not_checked_is_never_executed"
GUARD = Change(
    "orders/store.py", "new.order_id AND orders.status = 'pending'", "new.order_id"
)
TRIGGER = Change(
    "orders/migrations/0001_orders_and_outbox.py",
    " WHEN (OLD.status <> 'pending')",
    " WHEN (false)",
)
MUTANTS = [
    # Amounts mean what the books say.
    Mutant(
        "books in another currency start",
        [Change("billing/books.py", "if books != self.unit:", "if books == ():")],
        tests(
            "billing/tests/unit/test_books.py",
            "test_other_books_end_the_start_with_one_line",
        ),
    ),
    Mutant(
        "every currency has two digits",
        [Change("gateway/money.py", "return ISO_4217_DIGITS[currency]", "return 2")],
        tests(MONEY, "test_an_amount_has_the_digits_that_iso_4217_gives_its_currency"),
    ),
    Mutant(
        "a text may have more digits than its currency",
        [
            Change(
                "gateway/money.py",
                ' and len(value.partition(".")[2]) <= digits():',
                ":",
            )
        ],
        tests(MONEY, "test_no_amount_with_more_digits_is_accepted"),
    ),
    Mutant(
        "letters have the digits of CLDR",
        [
            Change(
                "notifications/domain.py",
                "currency_digits=False",
                "currency_digits=True",
            )
        ],
        tests(
            "notifications/tests/unit/test_domain.py",
            "test_money_is_written_as_in_the_language_with_the_digits_of_iso_4217",
        ),
    ),
    # Effects are made once, by unique keys.
    Mutant(
        "a ref is not unique",
        [
            Change(
                "billing/migrations/0001_accounts_and_operations.py",
                '"ref", sa.Text, nullable=False, unique=True',
                '"ref", sa.Text, nullable=False',
            ),
            Change(
                "billing/store.py",
                " ON CONFLICT (ref) DO NOTHING RETURNING 1",
                " RETURNING 1",
            ),
        ],
        tests(
            LEDGER,
            "test_of_two_users_who_race_for_one_ref_one_gets_it",
            "test_a_ref_taken_meanwhile_conflicts_and_its_neighbours_are_done",
        ),
    ),
    Mutant(
        "an idempotency key of an order is not unique",
        [
            Change(
                "orders/migrations/0001_orders_and_outbox.py",
                '["user_id", "key"], unique=True',
                '["user_id", "key"]',
            ),
            Change(
                "orders/store.py",
                " ON CONFLICT (user_id, key) DO NOTHING RETURNING",
                " RETURNING",
            ),
        ],
        tests(
            PLACE,
            "test_the_same_key_is_the_same_order",
            "test_the_same_key_many_times_at_once_is_one_order",
        ),
    ),
    Mutant(
        "an order may have two letters",
        [
            Change(
                "notifications/migrations/0001_recipients_and_letters.py",
                '"order_id", UUID(as_uuid=False), unique=True',
                '"order_id", UUID(as_uuid=False)',
            )
        ],
        tests(
            LETTERS,
            "test_however_often_and_in_whatever_order_ends_are_told_each_order_has_one_letter",
        ),
    ),
    Mutant(
        "a redelivered sign-up is refused",
        [
            Change(
                "users/service.py",
                'if holder["id"] == row["id"] and',
                'if holder["id"] != row["id"] and',
            )
        ],
        tests(USERS, "test_a_redelivered_sign_up_is_answered_as_the_first"),
    ),
    # An order ends once.
    Mutant(
        "an order ends though it has ended",
        [GUARD],
        tests(PLACE, "test_an_order_ended_twice_at_once_ends_once_with_one_event"),
    ),
    Mutant(
        "the database lets an ended order be changed",
        [TRIGGER],
        tests(PLACE, "test_the_database_itself_keeps_an_ended_order_as_it_is"),
    ),
    Mutant(
        "an order ends though it has ended, and the database lets it",
        [GUARD, TRIGGER],
        tests(PLACE, "test_an_order_ended_twice_at_once_ends_once_with_one_event"),
    ),
    Mutant(
        "silence is taken for a refusal",
        [
            Change(
                "orders/domain.py",
                "    return None\n\n\ndef is_misunderstood",
                '    return Ending(order_id, "rejected", "timeout")\n\n\ndef is_misunderstood',
            )
        ],
        tests("orders/tests/unit/test_domain.py", "test_no_other_answer_ends_an_order"),
    ),
    Mutant(
        "sweepers wait for each other",
        [Change("orders/store.py", " FOR UPDATE SKIP LOCKED))", "))")],
        tests(
            STORE,
            "test_sweepers_at_once_share_the_due_orders_and_none_waits_for_another",
        ),
    ),
    Mutant(
        "an order is swept without a lease",
        [
            Change(
                "orders/store.py",
                "next_attempt_at = now() + :lease",
                "next_attempt_at = next_attempt_at + 0 * CAST(:lease AS interval)",
            )
        ],
        tests(
            STORE,
            "test_an_order_that_was_claimed_is_left_alone_for_its_lease_and_then_due_again",
        ),
    ),
    # The ledger.
    Mutant(
        "a refusal is not stored",
        [
            Change(
                "billing/domain.py",
                "            operations.append(operation)\n",
                '            if operation.status == "done":\n                operations.append(operation)\n',
            )
        ],
        tests(BOOKS, "test_a_refusal_is_recorded_with_its_reason_and_moves_nothing"),
    ),
    Mutant(
        "a refusal is not stored, seen from outside",
        [
            Change(
                "billing/domain.py",
                "            operations.append(operation)\n",
                '            if operation.status == "done":\n                operations.append(operation)\n',
            )
        ],
        tests(
            LEDGER,
            "test_a_refusal_is_final_however_often_it_is_redelivered_after_a_top_up",
        ),
    ),
    Mutant(
        "the balance is read without a lock",
        [
            Change(
                "billing/store.py", " ORDER BY user_id FOR UPDATE", " ORDER BY user_id"
            )
        ],
        tests(LEDGER, "test_many_at_once_on_one_account_never_overdraw_it"),
    ),
    Mutant(
        "a cent more than the balance can be taken",
        [
            Change(
                "billing/domain.py",
                "request.amount_minor > account.balance_minor",
                "request.amount_minor > account.balance_minor + 1",
            )
        ],
        tests(BOOKS, "test_a_refusal_is_recorded_with_its_reason_and_moves_nothing"),
    ),
    Mutant(
        "a batch forgets its own balances",
        [
            Change(
                "billing/domain.py",
                "                state[request.user_id] = Account(\n",
                "                Account(\n",
            )
        ],
        tests(BOOKS, "test_balances_change_by_exactly_the_done_operations"),
    ),
    Mutant(
        "another user's ref is answered",
        [
            Change(
                "billing/domain.py",
                "== (\n        operation.user_id,",
                "== (\n        request.user_id,",
            )
        ],
        tests(BOOKS, "test_another_amount_kind_or_user_under_one_ref_is_a_conflict"),
    ),
    Mutant(
        "a client's key can be an order's",
        [
            Change(
                "billing/domain.py",
                """return f"order:{item['order_id']}\"""",
                """return f"key:{item['user_id']}:{item['order_id']}\"""",
            )
        ],
        tests(
            LEDGER, "test_no_name_that_a_caller_may_choose_meets_the_ref_of_an_order"
        ),
    ),
    Mutant(
        "a key is not its user's own",
        [Change("billing/domain.py", "f\"key:{item['user_id']}:", 'f"key:')],
        tests(LEDGER, "test_a_key_is_its_users_own"),
    ),
    Mutant(
        "a cancellation has a ref of its own",
        [
            Change(
                "billing/service.py",
                "        ref=domain.ref_of(item),\n",
                '        ref=domain.ref_of(item) + ":cancelled" * cancels,\n',
            )
        ],
        tests(LEDGER, "test_a_cancelled_withdrawal_never_happens"),
    ),
    Mutant(
        "a batch whose refs are taken again and again never ends",
        [
            Change(
                "billing/service.py", "MAX_SETTLEMENTS = 5", "MAX_SETTLEMENTS = 100_000"
            )
        ],
        tests(
            LEDGER,
            "test_refs_that_are_taken_again_and_again_end_in_a_fault_that_callers_retry",
        ),
    ),
    # Migrations.
    Mutant(
        "a migration waits for a lock, and all queries behind it",
        [Change("chassis/migrate.py", "lock_timeout = '1s'", "lock_timeout = 0")],
        tests(
            MIGRATIONS,
            "test_a_migration_that_waits_for_a_lock_lets_queries_pass_and_succeeds_once_it_is_free",
        ),
    ),
    Mutant(
        "an index build has a time limit",
        [Change("chassis/migrate.py", "SET statement_timeout = 0", "SELECT")],
        tests(
            MIGRATIONS,
            "test_index_builds_have_no_time_limit_and_several_migrations_take_turns",
        ),
    ),
    Mutant(
        "several migrations at once take no turns",
        [Change("chassis/migrate.py", "pg_try_advisory_xact_lock(7369001)", "true")],
        tests(
            MIGRATIONS,
            "test_index_builds_have_no_time_limit_and_several_migrations_take_turns",
        ),
    ),
    # The outbox.
    Mutant(
        "an order ends without its event",
        [
            Change(
                "orders/store.py",
                "{outbox.COLUMNS} FROM ended)",
                "{outbox.COLUMNS} FROM ended WHERE false)",
            )
        ],
        tests(PLACE, "test_an_end_and_its_event_are_stored_together_or_not_at_all"),
    ),
    Mutant(
        "a user is stored before its event",
        [
            Change(
                "users/service.py",
                "self.db.transaction() as connection",
                "self.db.autocommit() as connection",
            )
        ],
        tests(USERS, "test_user_and_event_are_stored_together_or_not_at_all"),
    ),
    Mutant(
        "two replays at once do not take turns",
        [Change("replay/outbox.py", "SELECT pg_advisory_xact_lock(%s)", "SELECT %s")],
        tests(REPLAY, "test_two_replays_at_once_write_one_event_for_each_order"),
    ),
    Mutant(
        "a replay doubles an event that the outbox still has",
        [Change("replay/outbox.py", "if lost.get(key) not in marked]", "]")],
        tests(REPLAY, "test_an_event_that_the_outbox_still_has_is_marked_as_unsent"),
    ),
    Mutant(
        "a replay takes an event that is on the way for lost",
        [Change("replay/outbox.py", " if key not in on_the_way}", "}")],
        tests(REPLAY, "test_an_event_that_is_on_the_way_is_left_alone"),
    ),
    Mutant(
        "an event that found no queue is marked as sent",
        [Change("chassis/outbox.py", " if not is_routed]", " if False]")],
        tests(
            OUTBOX, "test_an_event_without_a_queue_is_kept_and_sent_once_there_is_one"
        ),
    ),
    Mutant(
        "relays do not skip what another has",
        [Change("chassis/outbox.py", '" FOR UPDATE SKIP LOCKED)) RET', '")) RET')],
        tests(OUTBOX, "test_two_relays_side_by_side_publish_every_event_once"),
    ),
    Mutant(
        "each look of the relay begins at the start",
        [
            Change(
                "chassis/outbox.py",
                "FIRST if self._is_behind else self._position",
                "FIRST",
            )
        ],
        tests(
            POSITION,
            "test_a_look_reads_no_events_that_were_published_since_the_oldest_snapshot",
        ),
    ),
    Mutant(
        "nobody notices an event below the position",
        [
            Change(
                "chassis/outbox.py",
                "self._is_behind = below > 0",
                "self._is_behind = False",
            )
        ],
        tests(
            POSITION,
            "test_an_event_whose_clock_is_an_hour_behind_is_published",
            "test_every_event_is_published_whatever_the_clocks_of_those_who_write_and_relay",
        ),
    ),
    Mutant(
        "the position passes events that are not committed yet",
        [
            Change(
                "chassis/outbox.py",
                "min([_recent_id(), *self._unfinished.values()])",
                "_recent_id()",
            )
        ],
        tests(
            POSITION, "test_an_event_that_is_committed_after_newer_ones_goes_at_once"
        ),
    ),
    Mutant(
        "the position passes events that could not be published",
        [
            Change(
                "chassis/outbox.py",
                "        self._next_position = min(",
                "        self._position = self._next_position\n        self._next_position = min(",
            )
        ],
        tests(POSITION, "test_events_wait_above_the_position_while_publishing_fails"),
    ),
    Mutant(
        "nobody notices an order that the sweeper missed",
        [
            Change(
                "orders/service.py",
                "Service.is_behind |= is_behind",
                "Service.is_behind |= False",
            )
        ],
        tests(
            SWEEPER, "test_orders_that_were_missed_for_long_are_noticed_and_all_settled"
        ),
    ),
    # Publishing and handling.
    Mutant(
        "publishing is not mandatory",
        [
            Change(
                "chassis/amqp.py",
                "content, mandatory=True)",
                "content, mandatory=False)",
            )
        ],
        tests(AMQP, "test_each_message_without_a_queue_is_told"),
    ),
    Mutant(
        "nobody waits for a confirm",
        [
            Change(
                "chassis/amqp.py",
                "        return batch.wait()\n",
                "        return [True] * len(messages)\n",
            )
        ],
        [
            *tests(
                EVENTS, "test_an_event_without_a_dead_letter_queue_stays_in_its_own"
            ),
            *tests(
                AMQP, "test_a_refused_message_is_unavailable_and_the_next_publish_works"
            ),
        ],
    ),
    Mutant(
        "an event is acked before its work",
        [
            Change(
                "chassis/events.py",
                "        result = self._work(batch)\n",
                "        self._ack(batch, batch)\n        result = self._work(batch)\n",
            ),
            Change(
                "chassis/events.py",
                "        self._ack(batch, [*result.done, *moved])\n",
                "",
            ),
        ],
        tests(
            EVENTS,
            "test_an_event_whose_handler_is_killed_in_the_middle_is_handled_by_the_next_process",
        ),
    ),
    Mutant(
        "a dead letter is acked though it was not confirmed",
        [
            Change(
                "chassis/events.py",
                "            if not self._hold_dead_letters(moved, now):\n"
                "                self._ack(batch, result.done)\n"
                "                return first_line(exc)\n",
                "",
            ),
            Change(
                "chassis/events.py",
                "            moved = []\n        self._ack",
                "        self._ack",
            ),
        ],
        tests(UNIT_EVENTS, "test_no_event_is_lost_whatever_fails"),
    ),
    Mutant(
        "an ack covers an event that is held",
        [
            Change(
                "chassis/events.py",
                "min([self.held.lowest_tag(), *tags])",
                "min([float('inf'), *tags])",
            )
        ],
        tests(EVENTS, "test_no_ack_covers_an_event_that_is_held"),
    ),
    Mutant(
        "an ack covers an event of its batch that is not settled",
        [
            Change(
                "chassis/events.py",
                "min([self.held.lowest_tag(), *tags])",
                "self.held.lowest_tag()",
            )
        ],
        tests(UNIT_EVENTS, "test_no_event_is_lost_whatever_fails"),
    ),
    Mutant(
        "of a batch that fails one half is forgotten",
        [
            Change(
                "chassis/events.py",
                "            self._try(events[half:], result)\n",
                "",
            )
        ],
        tests(
            EVENTS,
            "test_one_malformed_event_is_found_in_its_batch_and_dead_lettered_alone",
        ),
    ),
    Mutant(
        "an unavailable database exhausts an event",
        [
            Change(
                "chassis/retries.py",
                "return code in MISSING or (is_away",
                "return bool(0) and (is_away",
            )
        ],
        tests(EVENTS, "test_an_event_waits_for_the_database_for_as_long_as_it_takes"),
    ),
    Mutant(
        "a lock on one row pauses the handler",
        [
            Change(
                "chassis/retries.py",
                "CALL_FAULTS) or is_contention(exc):\n        return False",
                "CALL_FAULTS):\n        return False",
            )
        ],
        tests(RETRIES, "test_all_others_do_not_pause_the_handler"),
    ),
    Mutant(
        "a probe that fails ends the pause",
        [
            Change(
                "chassis/events.py",
                "if not pause_reason and self._is_probing and result.has_returned:",
                "if not pause_reason and self._is_probing:",
            ),
            Change(
                "chassis/events.py",
                "if self._is_probing and not result.has_returned:",
                "if False:",
            ),
        ],
        tests(EVENTS, "test_a_probe_that_fails_on_its_own_does_not_end_the_pause"),
    ),
    Mutant(
        "a handler that pauses goes on consuming",
        [
            Change(
                "chassis/events.py",
                "        self.prefetch = 0\n",
                "        self.prefetch = PREFETCH\n",
            )
        ],
        tests(
            EVENTS,
            "test_while_a_handler_pauses_its_queue_has_no_consumer_and_all_messages",
        ),
    ),
    Mutant(
        "a failed call to another service exhausts an event",
        [
            Change(
                "chassis/retries.py",
                "+= not (isinstance(exc, CALL_FAULTS) or is_contention(exc))",
                "+= 1",
            )
        ],
        tests(RETRIES, "test_a_failed_call_delays_the_event_and_never_exhausts_it"),
    ),
    Mutant(
        "an event is retried at once",
        [
            Change(
                "chassis/retries.py",
                "self[delivery] = now + delivery.delay_s()",
                "self[delivery] = now",
            )
        ],
        tests(EVENTS, "test_no_try_follows_the_last_one_before_its_delay"),
    ),
    Mutant(
        "any number of events is held",
        [
            Change(
                "chassis/retries.py",
                "return len(self) < MAX_HELD and now",
                "return now",
            )
        ],
        tests(RETRIES, "test_no_more_than_the_limit_are_held"),
    ),
    Mutant(
        "events are dead-lettered though all fail alike",
        [Change("chassis/retries.py", "MAX_ALIKE = 3 ", "MAX_ALIKE = 3_000 ")],
        tests(
            EVENTS,
            "test_where_different_events_fail_alike_the_handler_pauses_and_none_is_dead_lettered",
        ),
    ),
    Mutant(
        "malformed events block those behind them",
        [
            Change(
                "chassis/events.py",
                "            return self._give_way(batch, result, alike)\n",
                '            return alike or "not yet"\n',
            )
        ],
        tests(
            EVENTS,
            "test_malformed_events_alone_stop_no_good_one_behind_them_and_end_as_dead_letters",
        ),
    ),
    Mutant(
        "a letter without a reader is dropped",
        [
            Change(
                "notifications/service.py",
                'return [(event, reason) for event in events if event["user_id"] not in recipients]',
                "return []",
            )
        ],
        tests(LETTERS, "test_a_letter_waits_until_its_reader_is_known"),
    ),
    Mutant(
        "redriving is not mandatory",
        [Change("chassis/moves.py", "mandatory=True", "mandatory=False")],
        tests(
            DEAD,
            "test_a_missing_queue_ends_the_command_with_one_line_and_loses_nothing",
        ),
    ),
    Mutant(
        "redriving goes on while there is something parked",
        [
            Change(
                "chassis/moves.py",
                "for _ in range(count(channel, source)):\n",
                "while count(channel, source):\n",
            )
        ],
        tests(DEAD, "test_events_that_are_parked_again_at_once_are_moved_once"),
    ),
    # Queues whose limits the broker decides.
    Mutant(
        "the migration returns a message only twice",
        [
            Change(
                "chassis/queue_limits.py",
                "for _ in range(RETURNS)",
                "for _ in range(1)",
            )
        ],
        tests(LIMITS, "test_a_policy_that_drops_events_is_refused_by_name"),
    ),
    Mutant(
        "a killed migration leaves its scratch queues",
        [Change("chassis/queue_limits.py", '{"x-expires": EXPIRES_S * 1000}', "{}")],
        tests(LIMITS, "test_scratch_queues_of_a_killed_migration_expire"),
    ),
    # What a user of the broker must not have.
    Mutant(
        "a broker user may use every routing key",
        [
            Change(
                "chassis/broker_user.py",
                '            "routing keys of nameko-rpc": partial(publish, "nameko-rpc"),\n',
                "",
            )
        ],
        tests(BROKER_USER, "test_each_right_that_is_too_wide_is_named_alone"),
    ),
    Mutant(
        "a service starts though its broker user may do too much",
        [
            Change(
                "chassis/container.py", "if not self._must_be_restricted:", "if True:"
            )
        ],
        tests(
            BROKER_USER,
            "test_a_service_waits_until_its_user_is_restricted_and_needs_no_restart",
        ),
    ),
    Mutant(
        "the migrations run with a broker user that may do too much",
        [
            Change(
                "chassis/migrate.py",
                '            check_broker_user(config, "migrations")\n',
                "            pass\n",
            )
        ],
        tests(BROKER_USER, "test_migrations_end_with_one_line"),
    ),
    Mutant(
        "a refused login is taken for missing migrations",
        [Change("chassis/command.py", "in (312, 404)", "in (312, 403, 404)")],
        tests(
            COMMAND,
            "test_it_names_the_cause_and_only_a_missing_queue_is_the_migrations",
        ),
    ),
    # What a database must have.
    Mutant(
        "a database that cannot hold all texts is taken",
        [
            Change(
                "chassis/database_checks.py",
                '("UTF8",)',
                '("UTF8", "LATIN1", "SQL_ASCII")',
            )
        ],
        tests(DATABASE, "test_a_service_refuses_a_database_that_is_not_utf8"),
    ),
    Mutant(
        "the role gets no time limits",
        [
            Change(
                "chassis/database_checks.py",
                "            _set_for_role(connection, wanted)\n",
                "",
            )
        ],
        tests(DATABASE, "test_the_first_start_makes_the_limits_settings_of_the_role"),
    ),
    Mutant(
        "a pooler keeps the session that set the time limits, and that has none",
        [
            Change(
                "chassis/database_checks.py",
                "pg_terminate_backend(pg_backend_pid())",
                "1",
            )
        ],
        tests(POOLER, "test_an_order_is_paid_and_the_books_agree"),
    ),
    # Calls.
    Mutant(
        "a deadline is not passed on",
        [Change("chassis/rpc.py", 'f"nameko.{TIMEOUT}": tell_s,', "")],
        tests(
            "chassis/tests/interface/test_deadlines.py",
            "test_a_service_asked_in_a_hurry_waits_no_longer_for_others_than_its_caller_does",
        ),
    ),
    Mutant(
        "a request that nobody can answer is taken",
        [
            Change(
                "chassis/rpc.py",
                'if not is_id(message.properties.get("reply_to")):',
                "if False:",
            )
        ],
        tests(
            RPC, "test_a_poison_message_is_taken_off_the_queue_and_the_service_lives"
        ),
    ),
    Mutant(
        "an error quotes the row that was refused",
        [
            Change(
                "chassis/connections.py", "before + found, *exc.args[1:]", "*exc.args,"
            )
        ],
        tests(CONNECTIONS, "test_an_error_does_not_quote_the_row_that_was_refused"),
    ),
    Mutant(
        "a body of any encoding is unpacked",
        [
            Change(
                "chassis/amqp.py",
                'properties.get("content_encoding") not in ENCODINGS',
                "False",
            )
        ],
        tests(
            "chassis/tests/unit/test_properties.py",
            "test_a_body_is_never_unpacked_by_its_encoding",
        ),
    ),
    Mutant(
        "a callee adds headers to a response",
        [
            Change(
                "gateway/service.py",
                """quote(f"/orders/{order['id']}")""",
                """f"/orders/{order['id']}\"""",
            )
        ],
        tests(
            "gateway/tests/interface/test_answers.py",
            "test_a_callee_adds_no_header_to_a_response",
        ),
    ),
    Mutant(
        "the publisher of an event chooses the queues of its copies",
        [Change("chassis/moves.py", '- {"CC", "BCC", *without}', "- {*without}")],
        tests(DEAD, "test_a_redriven_event_is_as_it_was_before_its_first_try"),
    ),
    Mutant(
        "a dead-lettered request is executed",
        [Change("chassis/rpc.py", "if DEATHS in message.headers:", "if False:")],
        tests(RPC, DETOUR),
    ),
    Mutant(
        "a request from another exchange is executed",
        [
            Change(
                "chassis/rpc.py",
                'message.delivery_info["exchange"] != self._exchange:',
                "False:",
            )
        ],
        tests(RPC, DETOUR),
    ),
    Mutant(
        "a withdrawn call is sent all the same",
        [
            Change(
                "chassis/amqp.py",
                "queued.when_unsent and queued.take():",
                "queued.when_unsent:",
            )
        ],
        tests(AMQP, "test_a_withdrawn_message_is_never_sent_and_its_sender_knows"),
    ),
    Mutant(
        "a service passes on that a call of its own was not received",
        [
            Change(
                "chassis/rpc.py",
                "serialize(Unavailable(*fault.args) if isinstance(fault, NotReceived) else fault)",
                "serialize(fault)",
            )
        ],
        tests(
            RPC,
            "test_that_a_call_of_its_own_was_not_received_says_nothing_about_the_service",
        ),
    ),
    # Permissions.
    Mutant(
        "a service may call any method",
        [Change("dev/bus.py", "*map(literal, requests)", '"[a-z_.]+"')],
        tests(
            "dev/tests/unit/test_bus.py",
            "test_a_user_calls_the_methods_that_are_named_here_and_no_other",
        ),
    ),
    Mutant(
        "another user's order is shown",
        [
            Change(
                "gateway/service.py",
                "order_id=order_id, user_id=request.user_id",
                "order_id=order_id",
            )
        ],
        tests(
            "tests/system/test_permissions.py", "test_a_route_does_what_the_table_says"
        ),
    ),
    # The gateway.
    Mutant(
        "a gateway leaves its Service for lack of a broker",
        [Change("chassis/health.py", 'partial(_readiness, " started")', "_readiness")],
        tests(
            HEALTH, "test_startedz_asks_whether_services_have_started_and_nothing_else"
        ),
    ),
    Mutant(
        "idle connections keep probes out",
        [
            Change(
                "chassis/health.py", "if len(_accepted) > MAX_CONNECTIONS:", "if False:"
            )
        ],
        tests(HEALTH, "test_idle_connections_do_not_keep_a_probe_from_its_answer"),
    ),
    Mutant(
        "all interfaces are those of IPv6 alone",
        [
            Change(
                "chassis/health.py",
                'dualstack_ipv6=not ip.strip("0:")',
                "dualstack_ipv6=False",
            )
        ],
        tests(HEALTH, "test_all_interfaces_are_those_of_both_families"),
    ),
    Mutant(
        "a kernel without IPv6 has no interfaces",
        [
            Change(
                "chassis/health.py",
                " and not socket.has_dualstack_ipv6()",
                " and False",
            )
        ],
        tests(
            HEALTH, "test_where_the_kernel_has_no_ipv6_all_interfaces_are_those_of_ipv4"
        ),
    ),
    Mutant(
        "a client of IPv4 is another one on a socket of both families",
        [Change("gateway/reading.py", "address.ipv4_mapped or ", "")],
        tests(
            READING, "test_a_client_of_ipv4_is_the_same_on_a_socket_of_both_families"
        ),
    ),
    Mutant(
        "each address of IPv6 is a client of its own",
        [
            Change(
                "gateway/reading.py", "IPv6Address(int(address) >> 72 << 72)", "address"
            )
        ],
        tests(READING, "test_a_client_of_ipv6_is_its_network_of_56_bits"),
    ),
    Mutant(
        "busy connections make room for new ones",
        [Change("gateway/protocol.py", "return self.phase == IDLE and", "return")],
        tests(
            "gateway/tests/interface/test_connections.py",
            "test_one_connection_too_many_is_answered_and_closed_where_all_others_are_busy",
        ),
    ),
    Mutant(
        "a client with all connections keeps others out",
        [
            Change(
                "gateway/web.py",
                "(c.client in greedy and c.phase < IN_PROGRESS)\n            or ",
                "",
            )
        ],
        tests(WEB, "test_the_client_that_has_most_makes_room_for_one_that_has_fewer"),
    ),
    Mutant(
        "a request in progress is given up for a new connection",
        [Change("gateway/web.py", "c.phase < IN_PROGRESS", "c.phase <= IN_PROGRESS")],
        tests(WEB, "test_no_request_in_progress_is_given_up"),
    ),
    Mutant(
        "the connections of a client that has few make room for one that has many",
        [
            Change(
                "gateway/web.py",
                "(held[c.client] >= held[client] and c.idles_for(MIN_IDLE_S))",
                "c.idles_for(MIN_IDLE_S)",
            )
        ],
        tests(
            WEB,
            "test_a_client_that_has_most_takes_the_place_of_its_own_connections_alone",
        ),
    ),
    Mutant(
        "one client may use all workers",
        [Change("gateway/web.py", "MAX_SHARE = 0.25", "MAX_SHARE = 1")],
        tests(
            "gateway/tests/interface/test_connections.py",
            "test_a_client_with_its_share_of_the_workers_leaves_the_others_to_the_next",
        ),
    ),
    Mutant(
        "a length beside chunks is ignored",
        [
            Change(
                "gateway/reading.py", '"content-length" in headers or coding', "coding"
            )
        ],
        tests(
            "gateway/tests/unit/test_reading.py",
            "test_framing_that_could_be_read_in_two_ways_is_refused",
        ),
    ),
    Mutant(
        "two bytes behind a chunk are skipped, whatever they are",
        [
            Change(
                "gateway/bodies.py",
                'if received[end : end + 2] != b"\\r\\n":',
                "if False:",
            )
        ],
        tests(
            "gateway/tests/unit/test_bodies.py",
            "test_malformed_chunks_are_refused_however_they_arrive",
        ),
    ),
    Mutant(
        "a client chooses its own address",
        [Change("gateway/reading.py", "peer][-1 - proxies :]", "peer]")],
        tests(
            "gateway/tests/unit/test_reading.py",
            "test_a_client_is_the_address_that_the_last_trusted_proxy_saw",
        ),
    ),
    Mutant(
        "a large answer is copied for each client",
        [
            Change(
                "gateway/responses.py",
                "else [head, memoryview(body)]",
                "else [head + body]",
            )
        ],
        tests(
            "gateway/tests/unit/test_responses.py", "test_a_large_body_is_never_copied"
        ),
    ),
    Mutant(
        "caches may keep answers",
        [Change("gateway/responses.py", '"Cache-Control": "no-store", ', "")],
        tests(
            "gateway/tests/unit/test_responses.py",
            "test_nobody_keeps_an_answer_or_guesses_its_type",
        ),
    ),
    # Settings are text, and no message shows a secret.
    Mutant(
        "the key of the tokens is read as YAML",
        [Change("config.yaml", "!raw_env_var ${TOKEN_SECRET:}", "${TOKEN_SECRET:}")],
        tests(SETTINGS, "test_no_variable_is_read_as_yaml"),
    ),
    Mutant(
        "a secret and its file may both be set",
        [Change("chassis/settings.py", "        if value:\n", "        if False:\n")],
        tests(SETTINGS, "test_a_secret_is_set_in_one_form_only"),
    ),
    Mutant(
        "a URI may have two unencoded @",
        [Change("chassis/settings.py", "([^@:/]*(:[^@]*)?@)?", "([^@:/]*(:.*)?@)?")],
        tests(
            SETTINGS, "test_a_wrong_database_uri_is_named_and_its_password_not_shown"
        ),
    ),
    Mutant(
        "a file that holds no secret is quoted",
        [
            Change(
                "chassis/secret_files.py", "{path!r} must hold", "{content!r} must hold"
            )
        ],
        tests(SECRET_FILES, "test_a_file_that_holds_no_secret_is_named_and_not_quoted"),
    ),
    Mutant(
        "a path that may be the secret is shown",
        [
            Change(
                "chassis/secret_files.py",
                "is wrong: it must be",
                "is wrong: {path} must be",
            )
        ],
        tests(
            SECRET_FILES,
            "test_what_is_no_absolute_path_may_be_the_secret_and_is_not_shown",
        ),
    ),
    # One client starves nobody, and a text steers nothing.
    Mutant(
        "passwords are hashed in the order in which they came",
        [
            Change(
                "users/fair_queue.py",
                "min(self._waiting, key=lambda turn: self._last_turns[self._waiting[turn][kind]])",
                "next(iter(self._waiting))",
            )
        ],
        tests(
            FAIR_QUEUE,
            "test_a_crowd_delays_a_caller_of_another_address_and_name_by_few_turns",
        ),
    ),
    Mutant(
        "usernames have no turns of their own",
        [Change("users/fair_queue.py", "kind = self._turns % 2", "kind = 0")],
        tests(FAIR_QUEUE, "test_behind_a_proxy_the_names_share_the_turns"),
    ),
    Mutant(
        "a full queue refuses whoever comes",
        [
            Change(
                "users/fair_queue.py",
                "key=lambda turn: sum(sizes[group] for group in self._waiting[turn])",
                "key=lambda turn: 0",
            )
        ],
        tests(
            FAIR_QUEUE, "test_in_a_full_queue_the_crowd_gives_a_place_to_another_caller"
        ),
    ),
    Mutant(
        "the slot of a killed caller is lost",
        [
            Change(
                "users/fair_queue.py", "            self._working.discard(turn)\n", ""
            )
        ],
        tests(
            FAIR_QUEUE,
            "test_a_caller_killed_between_its_turn_and_its_work_gives_the_slot_back",
        ),
    ),
    Mutant(
        "the client's address does not travel",
        [
            Change(
                "chassis/rpc.py",
                'f"nameko.{CLIENT}": current_client()',
                'f"nameko.{CLIENT}": ""',
            )
        ],
        tests(
            RPC, "test_the_clients_address_goes_with_a_lone_call_and_not_with_a_batch"
        ),
    ),
    Mutant(
        "a page of letters has no bound in bytes",
        [
            Change(
                "notifications/store.py",
                "MAX_PAGE_BYTES = 64 * 1024",
                "MAX_PAGE_BYTES = 64 * 1024 * 1024",
            )
        ],
        tests(
            MESSAGES, "test_a_page_is_bounded_in_bytes_and_a_walk_has_every_letter_once"
        ),
    ),
    Mutant(
        "a letter quotes an unknown reason of an event",
        [
            Change(
                "notifications/domain.py",
                'reasons.get(ending.reason or "", reasons["other"])',
                'reasons.get(ending.reason or "", ending.reason or "")',
            )
        ],
        tests(
            "notifications/tests/unit/test_domain.py",
            "test_a_reason_without_words_of_ours_is_not_quoted",
        ),
    ),
    Mutant(
        "a subject may hold a header",
        [Change("notifications/schemas.py", r"(?!.*=\?[^?]*\?[bBqQ]\?)", "")],
        tests(
            "notifications/tests/unit/test_schemas.py",
            "test_a_subject_that_is_taken_can_stand_in_an_email",
        ),
    ),
    Mutant(
        "an address may be an option of a mail command",
        [Change("chassis/schemas.py", "    _HEADER_SAFE(text)\n", "")],
        tests("users/tests/unit/test_schemas.py", "test_an_odd_address_is_refused"),
    ),
    Mutant(
        "a long address is examined before it is refused",
        [Change("chassis/schemas.py", "validate.Length(max=254)(text)", "pass")],
        tests(
            "users/tests/unit/test_schemas.py",
            "test_a_long_text_is_refused_before_it_is_examined",
        ),
    ),
    Mutant(
        "two forms of one domain are two addresses",
        [
            Change(
                "users/domain.py",
                "@{address.ascii_domain}",
                "@{written.rpartition('@')[2].casefold()}",
            )
        ],
        tests(
            "users/tests/unit/test_domain.py",
            "test_two_spellings_of_an_international_address_are_one",
        ),
    ),
    Mutant(
        "the key of an address is not that of earlier versions",
        [Change("users/domain.py", "@{address.ascii_domain}", "@{address.domain}")],
        tests(
            "users/tests/unit/test_domain.py",
            "test_the_key_of_an_ascii_address_is_that_of_earlier_versions",
        ),
    ),
    Mutant(
        "a region hides the language that a client accepts",
        [Change("gateway/schemas.py", '"[-_][a-z0-9]+"', '"[-_][A-Z]+"')],
        tests(
            "gateway/tests/unit/test_schemas.py",
            "test_russian_is_chosen_where_it_is_liked_best",
        ),
    ),
    Mutant(
        "a line of the log steers a terminal",
        [
            Change(
                "chassis/logs.py",
                "json.JSONEncoder(default=repr)",
                "json.JSONEncoder(default=repr, ensure_ascii=False)",
            )
        ],
        tests(LOGS, "test_no_line_holds_a_control_character_or_a_direction_mark"),
    ),
    # Every service recovers without a restart.
    Mutant(
        "a pooled connection is used unchecked",
        [
            Change(
                "chassis/connections.py",
                "if used_at and (monotonic() - used_at > CHECK_IDLE_S or _has_input(connection)):",
                "if False:",
            )
        ],
        tests(
            CONNECTIONS,
            "test_no_request_fails_after_a_restart_of_the_database",
            "test_idle_connections_that_are_forgotten_cost_no_request_its_answer",
        ),
    ),
    Mutant(
        "a wait for the database has no limit",
        [
            Change(
                "chassis/connections.py",
                "        limit_s or None,\n",
                "        None,\n",
            )
        ],
        tests(
            CONNECTIONS,
            "test_a_statement_that_is_never_answered_ends_and_its_pool_is_replaced",
        ),
    ),
    Mutant(
        "a connection that may only read stays in the pool",
        [
            Change(
                "chassis/errors.py", 'return sqlstate(exc)[:2] == "25"', "return False"
            )
        ],
        tests(
            CONNECTIONS,
            "test_a_connection_that_may_only_read_is_replaced_at_the_first_error",
        ),
    ),
    Mutant(
        "a service that cannot write says that it is ready",
        [
            Change(
                "chassis/db.py",
                "if prevents_writing(context.original_exception):",
                "if False:",
            )
        ],
        tests(
            CONNECTIONS,
            "test_a_write_that_is_refused_is_told_until_one_succeeds",
            "test_after_a_write_without_room_the_disk_is_tried",
        ),
    ),
    Mutant(
        "a lost connection is made again without consumers",
        [
            Change(
                "chassis/queues.py", "as (_, channel, _)", "as (silent, channel, _)"
            ),
            Change(
                "chassis/queues.py",
                "_open_connection(channel).drain_events",
                "silent.drain_events",
            ),
            Change(
                "chassis/queues.py",
                "_open_connection(channel).heartbeat_tick",
                "silent.heartbeat_check",
            ),
        ],
        tests(
            CONTAINER, "test_no_consumer_is_missing_after_a_connection_was_lost_unseen"
        ),
    ),
    Mutant(
        "a connection is cut off at TLS and not beneath it",
        [
            Change(
                "chassis/queues.py",
                "tcp.shutdown(",
                "connection.transport.sock.shutdown(",
            )
        ],
        tests(TLS, "test_a_connection_that_is_cut_off_while_it_is_read_is_replaced"),
    ),
    Mutant(
        "the end of a connection waits for the end of TLS",
        [Change("chassis/transport.py", "_shutdown_transport", "_end_transport")],
        tests(TLS, "test_the_end_of_a_connection_waits_for_no_answer_of_tls"),
    ),
    Mutant(
        "a timer goes by the time of day",
        [Change("chassis/timers.py", "def _run(self)", "def _run_by_our_clock(self)")],
        tests(LOOPS, "test_a_timer_goes_on_though_the_time_of_day_is_set_back"),
    ),
    Mutant(
        "a stuck loop is ready",
        [Change("chassis/loops.py", "if self.busy_s() > self._limit_s:", "if False:")],
        tests(LOOPS, "test_a_timer_whose_run_is_stuck_is_not_ready"),
    ),
    # Names.
    Mutant(
        "libpq looks up the names of databases",
        [
            Change(
                "chassis/lookups.py",
                "            if needs_lookup(target):",
                "            if False:",
            )
        ],
        tests(
            LOOKUPS,
            "test_a_service_is_alive_without_name_server_and_follows_its_database",
        ),
    ),
    Mutant(
        "only the first address of a database is tried",
        [
            Change(
                "chassis/lookups.py",
                'resolve(target["host"])',
                'resolve(target["host"])[:1]',
            )
        ],
        tests(LOOKUPS, "test_the_next_address_is_tried_where_one_refuses"),
    ),
    Mutant(
        "an address is not used before the name server has answered for both families",
        [Change("chassis/lookups.py", "IPV6_TIMEOUT_S if addresses else None", "None")],
        tests(LOOKUPS, "test_a_broker_is_ready_whatever_its_name_server_does"),
    ),
    Mutant(
        "each address of a database has as much time as the last",
        [Change("chassis/lookups.py", "NEXT_ADDRESS_AFTER_S if waiting else", "")],
        tests(
            LOOKUPS, "test_a_database_is_ready_though_the_first_addresses_never_answer"
        ),
    ),
    Mutant(
        "each address of the broker has all the time",
        [Change("chassis/transport.py", "timeout / (1 + len(others))", "timeout")],
        tests(
            LOOKUPS, "test_a_broker_is_ready_though_the_first_addresses_never_answer"
        ),
    ),
    Mutant(
        "the end of a sender's time is taken for an address that refuses",
        [
            Change(
                "chassis/amqp.py",
                'kombu.exceptions.OperationalError("no',
                'ConnectionError("no',
            )
        ],
        tests(
            LOOKUPS, "test_the_time_of_a_sender_ends_though_there_are_more_addresses"
        ),
    ),
    Mutant(
        "a standby is taken for the primary",
        [Change("chassis/lookups.py", 'if setting == "on":', "if False:")],
        tests(LOOKUPS, "test_migrations_skip_a_standby"),
    ),
    Mutant(
        "migrations connect to the first server",
        [
            Change(
                "chassis/migrate.py",
                'event.listen(engine, "do_connect", lookups.connect)',
                "",
            )
        ],
        tests(LOOKUPS, "test_migrations_skip_a_standby"),
    ),
    # Passwords and values are for those who need them.
    Mutant(
        "every process gets the passwords of all databases",
        [Change("dev/servers.py", "if user in (ALL_RIGHTS, MIGRATIONS):", "if user:")],
        tests(COPIES, "test_a_copy_is_told_of_its_own_database_and_no_other_secret"),
    ),
    Mutant(
        "a command without a user gets the secrets of the terminal",
        [
            Change(
                "dev/cli.py",
                "**public, **own, **QUIET",
                "**os.environ, **own, **QUIET",
            )
        ],
        tests(COPIES, "test_a_command_without_a_user_gets_no_secret"),
    ),
    Mutant(
        "commands ask a proxy for the suite",
        [Change("dev/cli.py", ", **without_proxy(os.environ)}", "}")],
        tests(COPIES, "test_no_command_asks_a_proxy_for_the_suite"),
    ),
    Mutant(
        "all checkouts share one project of compose",
        [
            Change(
                "dev/images/passwords.sh",
                "project=shop-$(random_hex 3)",
                "project=shop",
            )
        ],
        tests(
            "dev/tests/unit/test_images.py",
            "test_each_checkout_has_a_project_of_its_own_which_keeps_its_name",
        ),
    ),
    Mutant(
        "an installation builds on what a killed one has left",
        [Change("dev/install.sh", "[ -e .venv/.unfinished ] || ", "")],
        tests(
            "dev/tests/unit/test_install.py",
            "test_what_a_failed_or_killed_run_has_left_is_made_anew",
        ),
    ),
    Mutant(
        "others may write what root starts",
        [
            Change(
                "dev/supervisor.py",
                "write_private(config, self._config(programs))",
                "config.write_text(self._config(programs))",
            )
        ],
        tests(
            "dev/tests/unit/test_supervisor.py",
            "test_others_may_write_nothing_and_read_no_variables_whatever_the_umask_is",
        ),
    ),
    Mutant(
        "a percent sign in the path ends the migrations",
        [Change("chassis/migrate.py", '.replace("%", "%%")', "")],
        tests(
            "chassis/tests/interface/test_migrations.py",
            "test_a_checkout_may_lie_in_a_folder_with_a_percent_sign",
        ),
    ),
    Mutant(
        "everybody may read the variables of a program",
        [Change("dev/passwords.py", "PRIVATE = 0o600", "PRIVATE = 0o644")],
        tests(
            "dev/tests/unit/test_supervisor.py",
            "test_others_may_write_nothing_and_read_no_variables_whatever_the_umask_is",
        ),
    ),
    Mutant(
        "a failed statement is in PostgreSQL's log",
        [
            Change(
                "dev/servers.py",
                '"log_min_error_statement": "panic"',
                '"timezone": "UTC"',
            )
        ],
        tests(SERVERS, "test_the_log_of_postgresql_has_no_values"),
    ),
    Mutant(
        "the details of an error are in PostgreSQL's log",
        [
            Change(
                "dev/servers.py", '"log_error_verbosity": "terse"', '"timezone": "UTC"'
            )
        ],
        tests(SERVERS, "test_the_log_of_postgresql_has_no_values"),
    ),
    Mutant(
        "a role may take all connections of PostgreSQL",
        [
            Change(
                "dev/servers.py",
                "SERVICE_CONNECTIONS, OWNER_CONNECTIONS = 130",
                "SERVICE_CONNECTIONS, OWNER_CONNECTIONS = 600",
            )
        ],
        tests(SERVERS, "test_no_role_can_take_the_connections_of_others"),
    ),
    Mutant(
        "the known password of an earlier version stays",
        [Change("dev/servers.py", "found[kind] += more", "found[kind] += []")],
        tests(SERVERS, "test_the_known_password_of_an_earlier_version_is_replaced"),
    ),
    Mutant(
        "migrations declare exchanges that no service publishes to",
        [
            Change(
                "chassis/migrate.py",
                "if isinstance(dependency, Outbox)",
                "if dependency",
            )
        ],
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
        parser.error(
            "no mutant has these words"
        )  # pytest without a name would run all tests
    with tempfile.TemporaryDirectory(prefix="shop-mutants-") as folder:
        return judge(chosen, Path(folder))


def judge(mutants: Sequence[Mutant], folder: Path) -> int:
    """Run them all and print a line each; 0 where the tests notice every one."""
    named = sorted({test for mutant in mutants for test in mutant.tests})
    code, red, seconds = run_tests(copy_to(folder / "as-it-is"), named)
    print(
        f"{seconds:5.0f} s  {len(named)} tests on the code as it is: exit code {code} {red}",
        flush=True,
    )
    if code != 0:
        return 1
    survivors = [
        mutant.name for mutant in mutants if not is_noticed(mutant, folder / "mutant")
    ]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants noticed")
    return 1 if survivors else 0


def is_noticed(mutant: Mutant, root: Path) -> bool:
    """Whether one of its tests failed: not only broke down before it could say anything."""
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
    """The files that git tracks as they are now, with the environment of the checkout."""
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
    """pytest's exit code, the first test that failed, and how many seconds it took."""
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
