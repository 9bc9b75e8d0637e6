"""`make bench`: orders a second through the whole suite, beside what PostgreSQL alone does."""
