"""users: who our users are.

Owns     users (name, address, locale, password hash)
Answers  create, get, get_many, authenticate
Emits    user_created
Asks     nobody
"""
