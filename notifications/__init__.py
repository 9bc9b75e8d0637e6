"""notifications: the letters that users receive.

Owns     recipients (name, address and locale of each user), letters
Serves   send, list
Consumes users.user_created, orders.order_paid, orders.order_rejected (writes the letter)
Calls    users, for a user whose user_created has not arrived yet
"""
