"""notifications, top to bottom: what it needs, what it answers, what it listens to."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import RowMapping

from chassis.db import Database
from chassis.events import FailedEvents, event_handler
from chassis.outcomes import Outcome, page, validated
from chassis.retries import CALL_FAULTS
from chassis.rpc import RpcProxy, rpc
from chassis.settings import ISO_4217_CODE, Setting
from notifications import domain, models, store
from notifications.domain import Ending, Recipient
from notifications.exceptions import UnknownRecipient
from notifications.schemas import LetterOut, LetterQuery, NewMessage

log = logging.getLogger(__name__)

LETTER = LetterOut()
Events = list[dict[str, Any]]  # named here: inside the class `list` is a method
ASK_USERS_S = 1.0  # events of other users wait behind a batch
UNKNOWN_USER = (
    "unknown-user"  # billing's reason for an order of somebody who is no user
)


class Service:
    """Writes letters, stores them, lists them."""

    name = "notifications"

    db = Database(models.Base)
    users = RpcProxy("users", ["get_many"], limit_s=ASK_USERS_S)
    currency = Setting("CURRENCY", ISO_4217_CODE)

    @rpc
    @validated(NewMessage())
    def send(self, **message: Any) -> Outcome:
        """Send a `NewMessage`; the same `id` again sends nothing. The letter as stored, or
        {"status": "invalid", "errors": ...} or {"status": "unknown-user"}."""
        if user_id := message.get("user_id"):
            recipients = self._kept({user_id}) or self._ask({user_id})
            if not recipients:
                return {"status": "unknown-user"}
            message["email"] = recipients[user_id].email
        letter = {
            "id": str(uuid_utils.uuid7()),
            "order_id": None,
            "user_id": None,
            **message,
        }
        stored = self._store([{"kind": domain.MESSAGE, **letter}])
        if not stored:
            with self.db.autocommit() as connection:
                stored = store.letters(connection, {"id": letter["id"]}, 1, None)
        return LETTER.dump(stored[0])

    @rpc
    @validated(LetterQuery())
    def list(self, limit: int, after: str | None, **to: str) -> Outcome:
        """What a `LetterQuery` asks for: {"items": [letter, ...] newest first, "next": the next `after`}.

        A page ends after MAX_PAGE_BYTES of texts as JSON, so it may have fewer than `limit` letters."""
        with self.db.autocommit() as connection:
            rows = store.letters(connection, to, limit + 1, after)
        fitting = sum(row["bytes"] <= store.MAX_PAGE_BYTES for row in rows)
        return page(LETTER.dump(rows, many=True), min(limit, fitting), "id")

    @event_handler("users", "user_created")
    def handle_user_created(self, events: Events) -> None:
        """Store new recipients."""
        self._keep([_recipient(event["user_id"], event) for event in events])

    @event_handler("orders", "order_paid")
    def handle_order_paid(self, events: Events) -> FailedEvents:
        """Write letters of happiness."""
        return self._write_letters(events)

    @event_handler("orders", "order_rejected")
    def handle_order_rejected(self, events: Events) -> FailedEvents:
        """Write letters of grief."""
        for event in events:
            if event["reason"] == UNKNOWN_USER:
                log.warning(
                    "letter_user_unknown", extra={"order_id": event["order_id"]}
                )
        return self._write_letters(
            [event for event in events if event["reason"] != UNKNOWN_USER]
        )

    def _write_letters(self, events: Events) -> FailedEvents:
        """Write one letter an order, however often its event comes; the events without a recipient.

        Users is asked for recipients that are not known yet. While users is unavailable, only
        their events wait.
        """
        endings = [_ending(event) for event in events]
        user_ids = {ending.user_id for ending in endings}
        recipients = self._kept(user_ids)
        self._write_to(recipients, endings)
        reason: Exception = UnknownRecipient()
        if missing := user_ids - recipients.keys():
            try:
                found = self._ask(missing)
                self._write_to(found, endings)
                recipients |= found
            except CALL_FAULTS as fault:
                reason = fault
        return [
            (event, reason) for event in events if event["user_id"] not in recipients
        ]

    def _write_to(
        self, recipients: dict[str, Recipient], endings: Sequence[Ending]
    ) -> None:
        if ours := [ending for ending in endings if ending.user_id in recipients]:
            self._store(
                [self._letter(ending, recipients[ending.user_id]) for ending in ours]
            )

    def _letter(self, ending: Ending, to: Recipient) -> dict[str, Any]:
        # Letters are listed by their ids: in the order in which orders end, to the millisecond.
        id_ = uuid_utils.uuid7(nanoseconds=int(ending.at.timestamp() * 1e9))
        return {
            "id": str(id_),
            "order_id": ending.order_id,
            "user_id": to.user_id,
            "email": to.email,
            **asdict(domain.letter(ending, to, self.currency)),
        }

    def _store(self, letters: Sequence[dict[str, Any]]) -> Sequence[RowMapping]:
        """Store letters. Returns those that are new: an order has one letter."""
        with self.db.autocommit() as connection:
            return store.insert_letters(connection, letters)

    def _kept(self, user_ids: set[str]) -> dict[str, Recipient]:
        with self.db.autocommit() as connection:
            return store.recipients(connection, user_ids)

    def _ask(self, user_ids: set[str]) -> dict[str, Recipient]:
        """Who these users are, whose `user_created` is on its way: users knows."""
        told = self.users.get_many(user_ids=sorted(user_ids))
        recipients = [_recipient(user["id"], user) for user in told if user]
        self._keep(recipients)
        return {recipient.user_id: recipient for recipient in recipients}

    def _keep(self, recipients: Sequence[Recipient]) -> None:
        if recipients:
            with self.db.autocommit() as connection:
                store.keep_recipients(connection, recipients)


def _recipient(user_id: str, facts: dict[str, Any]) -> Recipient:
    return Recipient(user_id, facts["username"], facts["email"], facts["locale"])


def _ending(event: dict[str, Any]) -> Ending:
    return Ending(
        order_id=event["order_id"],
        user_id=event["user_id"],
        price_minor=event["price_minor"],
        reason=event.get("reason"),
        at=datetime.fromisoformat(event["occurred_at"]),
    )
