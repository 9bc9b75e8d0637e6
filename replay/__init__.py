"""replay: publishes events again whose effects are missing; `python -m replay`, or `make replay`.

Reads    users and orders, and the accounts, recipients and letters that their events bring about
Writes   the outboxes of users and orders, whose relays publish what is unsent
Imports  the services' event builders, and the audit's time limits; nothing imports it
"""
