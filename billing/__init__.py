"""billing: accounts, balances and the ledger.

Owns     accounts, operations (the ledger), books (the currency of the amounts)
Serves   deposit, withdraw, cancel, account (each also as ..._many), open_account, statement, audit
Consumes users.user_created (opens the account)
Calls    the service `users`, for an account whose user_created has not arrived yet
"""
