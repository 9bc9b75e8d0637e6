"""gateway: HTTP in, RPC out. It validates, authenticates and translates, without business rules.

Owns     only the key that signs tokens
Serves   the HTTP API (README, section "The API")
Calls    users, billing, orders, notifications

`gateway.http` names the modules that a request passes.
"""
