"""The service notifications: dependencies, RPC methods, events, then how letters are written."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import RowMapping

from chassis.db import Database
from chassis.errors import FAULTS
from chassis.events import FailedEvents, event_handler
from chassis.outcomes import Outcome, page, validated
from chassis.rpc import RpcProxy, rpc
from chassis.settings import ISO_4217_CODE, Setting
from notifications import domain, models, schemas, store
from notifications.domain import Recipient, SettledOrder
from notifications.exceptions import UnknownRecipient

log = logging.getLogger(__name__)

LETTER = schemas.LetterOut()
# A name for list[dict[str, Any]]: in the class, the word `list` means the method.
Events = list[dict[str, Any]]
# Short, because a batch also contains events of users that are stored as recipients.
USERS_TIMEOUT_S = 1.0
UNKNOWN_USER = "unknown-user"


class Service:
    """Writes letters about orders, stores messages, and lists both."""

    name = "notifications"

    db = Database(models.Base)
    users = RpcProxy("users", ["get_many"], limit_s=USERS_TIMEOUT_S)
    currency = Setting("CURRENCY", ISO_4217_CODE)

    @rpc
    @validated(schemas.NewMessage())
    def send(self, **message: Any) -> Outcome:
        """Send a message: `user_id` or `email`, `subject`, `body`, `id` (optional).

        Returns the letter as stored. A retry with the same `id` returns the first letter. Otherwise
        returns {"status": "unknown-user"} or {"status": "invalid", "errors": ...}.
        """
        if user_id := message.get("user_id"):
            found = self._load_recipients({user_id}) or self._fetch_recipients(
                {user_id}
            )
            if not found:
                return {"status": UNKNOWN_USER}
            message["email"] = found[user_id].email
        letter = {
            "id": str(uuid_utils.uuid7()),
            "order_id": None,
            "user_id": None,
            **message,
            "kind": "message",
        }
        if new := self._save_letters([letter]):
            return LETTER.dump(new[0])
        with self.db.autocommit() as connection:
            return LETTER.dump(store.load_letter(connection, letter["id"]))

    @rpc
    @validated(schemas.OrderLetterQuery())
    def get_letter(self, **query: str) -> Outcome | None:
        """Return the letter to a user about an order, or None: `order_id`, `user_id`."""
        with self.db.autocommit() as connection:
            letter = store.load_order_letter(connection, **query)
        return LETTER.dump(letter) if letter else None

    @rpc
    @validated(schemas.LetterQuery())
    def list(self, limit: int, after: str | None, **recipient: str) -> Outcome:
        """List letters: `user_id` or `email`, `limit` (1 to 100), `after` (the `next` of a page).

        Returns {"items": [letter, ...], "next": ...}, newest first. A page has fewer than `limit`
        letters if their texts exceed MAX_PAGE_BYTES as JSON.
        """
        with self.db.autocommit() as connection:
            letters = store.load_page(connection, recipient, limit + 1, after)
        fitting = [row for row in letters if row["bytes"] <= store.MAX_PAGE_BYTES]
        return page(LETTER.dump(letters, many=True), min(limit, len(fitting)), "id")

    @event_handler("users", "user_created")
    def handle_user_created(self, events: Events) -> None:
        """Store new users as recipients."""
        self._save_recipients([_recipient(event["user_id"], event) for event in events])

    @event_handler("orders", "order_paid")
    def handle_order_paid(self, events: Events) -> FailedEvents:
        """Write letters of happiness."""
        return self._write_letters(events)

    @event_handler("orders", "order_rejected")
    def handle_order_rejected(self, events: Events) -> FailedEvents:
        """Write letters of grief. An order of an unknown user gets no letter."""
        for event in events:
            if event["reason"] == UNKNOWN_USER:
                log.warning(
                    "letter_user_unknown", extra={"order_id": event["order_id"]}
                )
        return self._write_letters(
            [event for event in events if event["reason"] != UNKNOWN_USER]
        )

    def _write_letters(self, events: Events) -> FailedEvents:
        """Write one letter for each order. Return the events that have no recipient, with reasons.

        First the letters to stored recipients are written. Then other recipients are fetched from
        users. If users is unavailable, only the events of these recipients are retried.
        """
        orders = [
            SettledOrder(
                order_id=event["order_id"],
                user_id=event["user_id"],
                price_minor=event["price_minor"],
                reason=event.get("reason"),
                settled_at=datetime.fromisoformat(event["occurred_at"]),
            )
            for event in events
        ]
        user_ids = {order.user_id for order in orders}
        recipients = self._load_recipients(user_ids)
        self._write_letters_to(recipients, orders)
        reason: Exception = UnknownRecipient()
        if missing := user_ids - recipients.keys():
            try:
                fetched = self._fetch_recipients(missing)
                self._write_letters_to(fetched, orders)
                recipients |= fetched
            except FAULTS as fault:
                reason = fault
        return [
            (event, reason) for event in events if event["user_id"] not in recipients
        ]

    def _load_recipients(self, user_ids: set[str]) -> dict[str, Recipient]:
        with self.db.autocommit() as connection:
            return store.load_recipients(connection, user_ids)

    def _fetch_recipients(self, user_ids: set[str]) -> dict[str, Recipient]:
        """Fetch users whose `user_created` has not arrived yet, and store them as recipients."""
        recipients = [
            _recipient(user["id"], user)
            for user in self.users.get_many(user_ids=sorted(user_ids))
            if user
        ]
        self._save_recipients(recipients)
        return {recipient.user_id: recipient for recipient in recipients}

    def _save_recipients(self, recipients: Sequence[Recipient]) -> None:
        with self.db.autocommit() as connection:
            store.insert_recipients(connection, recipients)

    def _write_letters_to(
        self, recipients: dict[str, Recipient], orders: Sequence[SettledOrder]
    ) -> None:
        self._save_letters(
            [
                self._letter(order, recipients[order.user_id])
                for order in orders
                if order.user_id in recipients
            ]
        )

    def _letter(self, order: SettledOrder, recipient: Recipient) -> dict[str, Any]:
        # Letters are listed by id, so the id has the time at which the order was settled.
        id_ = uuid_utils.uuid7(nanoseconds=int(order.settled_at.timestamp() * 1e9))
        return {
            "id": str(id_),
            "order_id": order.order_id,
            "user_id": recipient.user_id,
            "email": recipient.email,
            **asdict(domain.letter_text(order, recipient, self.currency)),
        }

    def _save_letters(self, letters: Sequence[dict[str, Any]]) -> Sequence[RowMapping]:
        """Insert letters. Return those that are new: an order has one letter."""
        with self.db.autocommit() as connection:
            return store.insert_letters(connection, letters)


def _recipient(user_id: str, fields: dict[str, Any]) -> Recipient:
    return Recipient(
        user_id=user_id,
        username=fields["username"],
        email=fields["email"],
        locale=fields["locale"],
    )
