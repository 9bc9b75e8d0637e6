"""notifications, top to bottom: what it needs, what it answers, what it listens to."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from marshmallow import ValidationError
from sqlalchemy import RowMapping

from chassis.db import Database
from chassis.events import event_handler
from chassis.rpc import RpcProxy, rpc
from chassis.schemas import page
from chassis.settings import TEXT, Setting
from notifications import domain, models, store
from notifications.delivery import Delivery, StoreOnly
from notifications.domain import Outcome, Recipient
from notifications.exceptions import UnknownRecipient
from notifications.schemas import LetterOut, LetterQuery, NewMessage

Answer = dict[str, Any]


class Service:
    """Writes letters, stores them, lists them."""

    name = "notifications"

    db = Database(models.Base)
    users = RpcProxy("users")
    currency = Setting("CURRENCY", TEXT)
    delivery: Delivery = StoreOnly()

    @rpc
    def send(self, **message: Any) -> Answer:
        """Send a message: `subject`, `body`, and `user_id` or `email`. The letter as stored, or
        {"status": "invalid", "errors": ...} or {"status": "unknown-user"}."""
        try:
            wanted = NewMessage().load(message)
        except ValidationError as exc:
            return {"status": "invalid", "errors": exc.messages}
        user_id = wanted.get("user_id")
        if user_id:
            recipient = self._recipients({user_id}).get(user_id)
            if recipient is None:
                return {"status": "unknown-user"}
            wanted["email"] = recipient.email
        letter = {"kind": domain.MESSAGE, "order_id": None, "user_id": user_id, **wanted}
        [stored] = self._store([letter])
        return _dump(stored)

    @rpc
    def list(self, **query: Any) -> Answer:
        """{"items": [letter, ...] newest first, "next": ...}; `user_id` or `email`, `limit` (1 to
        100), `after` (a previous answer's `next`)."""
        try:
            query = LetterQuery().load(query)
        except ValidationError as exc:
            return {"status": "invalid", "errors": exc.messages}
        limit, after = query.pop("limit"), query.pop("after")
        with self.db.get_session(close_on_exit=True) as session:
            rows = store.letters(session, query, limit + 1, after)
        return page(LetterOut(many=True).dump(rows), limit, "id")

    @event_handler("users", "user_created")
    def handle_user_created(self, event: Answer) -> None:
        """Keep who gets letters."""
        self._keep([_recipient(event["user_id"], event)])

    @event_handler("orders", "order_paid")
    def handle_order_paid(self, event: Answer) -> None:
        """Write the letter of happiness."""
        self._write_letters([_outcome(event, None)])

    @event_handler("orders", "order_rejected")
    def handle_order_rejected(self, event: Answer) -> None:
        """Write the letter of grief."""
        self._write_letters([_outcome(event, event["reason"])])

    def _write_letters(self, outcomes: Sequence[Outcome]) -> None:
        """One letter for each order, however often its end is told."""
        recipients = self._recipients({outcome.user_id for outcome in outcomes})
        letters = []
        for outcome in outcomes:
            if outcome.user_id not in recipients:
                raise UnknownRecipient
            to = recipients[outcome.user_id]
            text = domain.letter(outcome, to, self.currency)
            letters.append(
                {
                    "kind": text.kind,
                    "order_id": outcome.order_id,
                    "user_id": to.user_id,
                    "email": to.email,
                    "subject": text.subject,
                    "body": text.body,
                }
            )
        self._store(letters)

    def _store(self, letters: Sequence[Answer]) -> Sequence[RowMapping]:
        """Hand letters over and store them; those stored (an order that has its letter gets none)."""
        states = self.delivery.deliver(letters)
        rows = [
            {"id": str(uuid_utils.uuid7()), "state": state, **letter}
            for letter, state in zip(letters, states, strict=True)
        ]
        with self.db.get_session(close_on_exit=True) as session:
            return store.insert_letters(session, rows)

    def _recipients(self, user_ids: set[str]) -> dict[str, Recipient]:
        """Who these users are; users is asked about those whose `user_created` is on its way."""
        with self.db.get_session(close_on_exit=True) as session:
            found = store.recipients(session, user_ids)
        missing = sorted(user_ids - found.keys())
        if missing:
            told = [user for user in self.users.get_many(user_ids=missing) if user]
            new = [_recipient(user["id"], user) for user in told]
            self._keep(new)
            found |= {recipient.user_id: recipient for recipient in new}
        return found

    def _keep(self, recipients: Sequence[Recipient]) -> None:
        if recipients:
            with self.db.get_session(close_on_exit=True) as session:
                store.keep_recipients(session, recipients)


def _recipient(user_id: str, facts: Answer) -> Recipient:
    return Recipient(user_id, facts["username"], facts["email"], facts["locale"])


def _outcome(event: Answer, reason: str | None) -> Outcome:
    return Outcome(event["order_id"], event["user_id"], event["price_minor"], reason)


def _dump(letter: RowMapping) -> Answer:
    out: Answer = LetterOut().dump(letter)
    return out
