"""Alembic's entry; what it does stands in chassis/migrate.py."""

from chassis.migrate import run_migrations

run_migrations()
