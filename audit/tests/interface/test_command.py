"""`python -m audit`: what it prints, how it ends, and how much memory it takes."""

import json
import subprocess
import sys

import pytest
import yaml

from audit.__main__ import SHOWN, main
from audit.tests.interface.story import tell
from dev.cli import QUIET

MEASURED = (
    "import resource, sys; from audit.__main__ import main; code = main(['--settled', '--json']);"
    " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)
MORE_MB = 10  # rows of two streams, BATCH each; all rows would be many times as much


@pytest.fixture
def run_audit(config, tmp_path, capsys):
    """`run_audit("--json", HEARTBEAT=0)`: exit code, what was printed, and what on standard error."""

    def run(*flags: str, **settings) -> tuple[int, str, str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **settings}))
        code = main(["--config", str(path), *flags])
        return code, *capsys.readouterr()

    return run


def test_where_all_is_well_it_says_what_it_looked_at(clean, sql, run_audit) -> None:
    tell(sql, shoppers=3, orders=10)
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


def test_differences_are_printed_for_people_and_for_machines(
    clean, sql, run_audit
) -> None:
    tell(sql, shoppers=1, orders=1)
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


def test_of_many_differences_the_first_are_printed_and_all_are_counted(
    clean, sql, run_audit
) -> None:
    tell(sql, shoppers=1, orders=SHOWN + 5)
    sql("notifications", "DELETE FROM letters")
    code, out, _ = run_audit()
    lines = out.splitlines()
    assert code == 1
    assert sum(line.startswith("letters: ") for line in lines) == SHOWN
    assert lines[-2:] == ["... and 5 more", "differences: 105"]


@pytest.mark.parametrize(
    ("settings", "said"),
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
def test_where_it_could_not_look_one_line_says_why(
    clean, run_audit, settings, said
) -> None:
    code, out, err = run_audit(**settings)
    assert (code, out) == (2, "")
    assert err.startswith("could not look: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_config_that_is_not_there_or_is_none_is_told(
    run_audit, tmp_path, capsys
) -> None:
    (tmp_path / "none.yaml").write_text("{")
    for name in ("missing.yaml", "none.yaml"):
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
    tell(sql, shoppers=1000, orders=200)
    assert peak_mb() - empty < MORE_MB
