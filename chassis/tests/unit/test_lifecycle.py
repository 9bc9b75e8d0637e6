"""The container calls the hooks of extensions that inherit Lifecycle, and of no other."""

import importlib
from collections.abc import Iterator

import pytest
from nameko.extensions import Extension

from chassis.lifecycle import Lifecycle

SERVICES = ("users", "billing", "orders", "notifications", "gateway")
HOOKS = ("check", "open", "drain")


def subclasses(cls: type) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


@pytest.mark.parametrize("hook", HOOKS)
def test_an_extension_with_a_hook_inherits_lifecycle(hook) -> None:
    for service in SERVICES:
        importlib.import_module(f"{service}.service")
    with_hook = [each for each in subclasses(Extension) if hasattr(each, hook)]
    assert with_hook
    assert [each for each in with_hook if not issubclass(each, Lifecycle)] == []
