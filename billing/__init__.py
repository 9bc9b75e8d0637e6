"""billing: whose money is how much, and why.

Owns     accounts, operations (the ledger), books (what their amounts mean)
Answers  deposit, withdraw, cancel, account (each also as ..._many), open_account, statement, audit
Listens  users.user_created (opens the account)
Asks     users, only when a command overtakes user_created
"""
