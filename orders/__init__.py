"""orders: what was ordered, and how it ended.

Owns     orders (pending, then paid or rejected, never back)
Answers  place (also as place_many), get, list
Emits    order_paid, order_rejected
Asks     billing, to withdraw the price under the order's id, or to cancel that
"""
