"""replay: publishes the events whose effects are missing; `python -m replay`, or `make replay`.

Reads    users and orders, and the effects of their events: accounts, recipients and letters
Writes   the outboxes of users and orders, whose relays publish unsent events
Imports  the services' event builders, and the audit's time limits; nothing imports it
"""
