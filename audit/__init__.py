"""audit: checks that the databases of all services agree; `python -m audit`, or `make audit`.

Reads    the four databases, each in one snapshot, and the broker's event queues
Imports  no service: it has its own SQL, so that a fault of a service cannot hide itself here
"""
