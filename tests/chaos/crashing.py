"""Run a service that crashes at one point: the `nameko` command, with one function wrapped.

    python -m tests.chaos.crashing --record FILE --times 2 --call 3 after orders.store:settle \\
        -- run --config config.yaml orders.service

The process sends itself SIGKILL before or after the third call. FILE gets a byte for each crash,
so that a restarted process knows the number of crashes. After `--times` crashes no function is
wrapped.
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
    function: Callable[..., Any],
    moment: str,
    containing: str,
    on_call: Callable[[], None],
) -> Any:
    """Return a function that calls `on_call` before or after each counted call.

    A call counts if its arguments contain the text, and if it had something to do: it did not
    return 0 or False.
    """

    @functools.wraps(function)  # keeps the attributes of nameko's decorators
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        counts = not containing or containing in repr((args, kwargs))
        if counts and moment == "before":
            on_call()
        result = function(*args, **kwargs)
        had_nothing_to_do = isinstance(result, int) and result == 0
        if counts and moment == "after" and not had_nothing_to_do:
            on_call()
        return result

    return wrapped


def install(
    function: str, moment: str, containing: str, on_call: Callable[[], None]
) -> None:
    """Wrap a function, named as module:name or module:Class.name."""
    module, _, path = function.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, wrap(getattr(owner, name), moment, containing, on_call))


def crash_in(call: int, record: Path) -> Callable[[], None]:
    """Return a function that kills this process in its `call`-th call, and records that."""
    calls = count(1)

    def on_call() -> None:
        if next(calls) == call:
            with record.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)

    return on_call


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.crashing", description=__doc__
    )
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--times", type=int, required=True, help="number of crashes")
    parser.add_argument(
        "--call", type=int, default=1, help="crash in this call, by default the first"
    )
    parser.add_argument(
        "--containing", default="", help="text that the arguments must contain"
    )
    parser.add_argument("moment", choices=("before", "after"))
    parser.add_argument("function", help="module:name or module:Class.name")
    parser.add_argument("arguments", nargs="+", help="of the nameko command")
    options = parser.parse_args()
    if deaths(options.record) < options.times:
        on_call = crash_in(options.call, options.record)
        install(options.function, options.moment, options.containing, on_call)
    sys.argv = ["nameko", *options.arguments]
    nameko()


if __name__ == "__main__":
    main()
