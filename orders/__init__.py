"""orders: orders and their final status.

Owns     orders (pending, then paid or rejected, which is final)
Serves   place (also as place_many), get, list
Emits    order_paid, order_rejected
Calls    billing, which withdraws the price of an order, or cancels the withdrawal
"""
