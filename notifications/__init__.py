"""notifications: the letters our users got.

Owns     recipients (what user_created tells), letters
Answers  send, list
Listens  users.user_created, orders.order_paid, orders.order_rejected (writes the letter)
Asks     users, only when an order's end overtakes user_created
"""
