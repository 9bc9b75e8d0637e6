"""The output, the exit codes and the memory of `python -m audit`."""

import json
import subprocess
import sys

import pytest
import yaml

from audit.__main__ import MAX_SHOWN, main
from audit.tests.interface.sample_data import insert_shoppers
from dev.cli import QUIET

MEASURED = (
    "import resource, sys; from audit.__main__ import main; code = main(['--settled', '--json']);"
    " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)
# Two streams keep BATCH_ROWS each. All rows would need many times as much.
MAX_GROWTH_MB = 10


@pytest.fixture
def run_audit(config, tmp_path, capsys):
    """Return a function: `run_audit("--json", HEARTBEAT=0)` gives exit code, stdout and stderr."""

    def run(*flags: str, **settings) -> tuple[int, str, str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **settings}))
        code = main(["--config", str(path), *flags])
        return code, *capsys.readouterr()

    return run


def test_without_a_difference_it_counts_the_rows(clean, sql, run_audit) -> None:
    insert_shoppers(sql, shoppers=3, orders=10)
    code, out, err = run_audit()
    assert (code, err) == (0, "")
    shown = dict(line.split() for line in out.splitlines()[:-1])
    assert shown == {
        "users": "3",
        "accounts": "3",
        "operations": "33",
        "orders": "30",
        "letters": "30",
        "money": "29998.11",
    }
    assert out.splitlines()[-1] == "differences: none"


def test_differences_are_printed_as_text_and_as_json(clean, sql, run_audit) -> None:
    insert_shoppers(sql, shoppers=1, orders=1)
    sql("notifications", "DELETE FROM letters")
    code, out, _ = run_audit()
    *_, line, last = out.splitlines()
    assert code == 1
    assert line.startswith("letters: ")
    assert last == "differences: 1"
    code, out, _ = run_audit("--json", "--settled")
    result = json.loads(out)
    assert (code, result["differences"], result["first"]) == (1, 1, [line])
    assert result["checked"]["letters"] == 0


def test_the_first_differences_are_printed_and_all_are_counted(
    clean, sql, run_audit
) -> None:
    insert_shoppers(sql, shoppers=1, orders=MAX_SHOWN + 5)
    sql("notifications", "DELETE FROM letters")
    code, out, _ = run_audit()
    lines = out.splitlines()
    assert code == 1
    assert sum(line.startswith("letters: ") for line in lines) == MAX_SHOWN
    assert lines[-2:] == ["... and 5 more", "differences: 105"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AMQP_URI": "amqp://shop:shop@127.0.0.1:9/"}, "the broker is unavailable"),
        ({"AMQP_URI": None}, "AMQP_URI is missing"),
        ({"DB_URIS": {}}, "NOTIFICATIONS_DB_URI is missing"),
        (
            {
                "DB_URIS": {
                    "notifications:Base": "postgresql+psycopg2://a:b@127.0.0.1:9/c"
                }
            },
            "Connection refused",
        ),
    ],
)
def test_an_unreadable_server_is_reported_in_one_line(
    clean, run_audit, settings, message
) -> None:
    code, out, err = run_audit(**settings)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_missing_or_malformed_config_is_reported_in_one_line(
    run_audit, tmp_path, capsys
) -> None:
    (tmp_path / "malformed.yaml").write_text("{")
    for name in ("missing.yaml", "malformed.yaml"):
        assert main(["--config", str(tmp_path / name)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_memory_does_not_grow_with_the_tables(clean, sql, environment) -> None:
    def peak_mb() -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED],
            env={**environment, **QUIET},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.splitlines()[-1]) / 1024

    empty = peak_mb()
    insert_shoppers(sql, shoppers=1000, orders=200)
    assert peak_mb() - empty < MAX_GROWTH_MB
