"""`make bench`: orders a second of the whole suite, beside plain SQL on PostgreSQL."""
