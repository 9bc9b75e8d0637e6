"""users: sign-up, login and profiles.

Owns     users (name, address, locale, password hash)
Serves   create, get, get_many, authenticate
Emits    user_created
Calls    no other service
"""
