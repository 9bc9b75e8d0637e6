"""audit: whether all services tell the same story; `python -m audit`, or `make audit`.

Reads    the four databases, each in one snapshot, and the broker's event queues
Imports  no service: it has SQL of its own, so that no fault of theirs hides itself here
"""
