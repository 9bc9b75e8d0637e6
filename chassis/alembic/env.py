"""Alembic's entry point, which calls chassis/migrate.py."""

from chassis.migrate import run_migrations

run_migrations()
