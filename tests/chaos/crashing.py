"""Runs a service that dies at one line: what the `nameko` command does, with one function wrapped.

    python -m tests.chaos.crashing --record FILE --times 2 --call 3 after billing.store:insert_operations -- \
        run --config config.yaml billing.service

The process sends itself SIGKILL before or after the third call. FILE gets a byte for each death, so
that a process started again knows how often it has died; after `--times` deaths nothing is wrapped.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import argparse
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from nameko.cli.main import main as nameko

from tests.chaos.points import deaths


def wrap(
    function: Callable[..., Any], moment: str, where: str, passed: Callable[[], None]
) -> Any:
    """`function`, that calls `passed` before or after each call whose arguments show `where`.

    A call that returned 0 or False has found nothing to do: it does not count.
    """

    @functools.wraps(function)  # keeps what nameko's decorators wrote on an entrypoint
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        counts = not where or where in repr((args, kwargs))
        if counts and moment == "before":
            passed()
        result = function(*args, **kwargs)
        if (
            counts
            and moment == "after"
            and not (isinstance(result, int) and result == 0)
        ):
            passed()
        return result

    return wrapped


def install(named: str, moment: str, where: str, passed: Callable[[], None]) -> None:
    """Wrap the function that `named` tells, as module:name or module:Class.name."""
    module, _, path = named.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, wrap(getattr(owner, name), moment, where, passed))


def dies_at(call: int, record: Path) -> Callable[[], None]:
    """What ends this process when it is called for the `call`-th time, and records that."""
    calls = count(1)

    def passed() -> None:
        if next(calls) == call:
            with record.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)

    return passed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.crashing", description=__doc__
    )
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument(
        "--times", type=int, required=True, help="how many processes die"
    )
    parser.add_argument(
        "--call", type=int, default=1, help="at which call; the first by default"
    )
    parser.add_argument(
        "--where", default="", help="a text that the arguments of a call must show"
    )
    parser.add_argument("moment", choices=("before", "after"))
    parser.add_argument("function", help="module:name or module:Class.name")
    parser.add_argument("arguments", nargs="+", help="of the nameko command")
    options = parser.parse_args()
    if deaths(options.record) < options.times:
        passed = dies_at(options.call, options.record)
        install(options.function, options.moment, options.where, passed)
    sys.argv = ["nameko", *options.arguments]
    nameko()


if __name__ == "__main__":
    main()
