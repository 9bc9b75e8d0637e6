"""gateway: HTTP in, RPC out. Validates, authenticates, translates; holds no business rule.

Owns     nothing but the key that signs tokens
Answers  the HTTP API (docs: README, section "The API")
Asks     users, billing, orders, notifications
"""
