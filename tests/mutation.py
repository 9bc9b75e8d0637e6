"""Changes to a copy of the code. Each removes one thing that a promise depends on.

A change refers to a symbol: `module:function`, `module:Class.method` or `module:CONSTANT`.
Inside it, expressions and statements are compared as syntax trees: layout does not matter.
A change that does not find exactly one place raises NotFound. The list of mutants is outdated then.
"""

import ast
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NotFound(Exception):
    """The symbol, or the place in it, does not exist, or exists more than once."""


@dataclass(frozen=True)
class Place:
    """A node of a syntax tree, and where its owner refers to it."""

    owner: ast.AST
    field: str
    index: int | None
    node: ast.AST

    def replace(self, new: ast.AST) -> None:
        if self.index is None:
            setattr(self.owner, self.field, new)
        else:
            getattr(self.owner, self.field)[self.index] = new

    def replace_statement(self, new: Sequence[ast.stmt]) -> None:
        """Put any number of statements in its place, or `pass`."""
        assert self.index is not None
        body = getattr(self.owner, self.field)
        body[self.index : self.index + 1] = new or [ast.Pass()]


def places(scope: ast.AST) -> Iterator[Place]:
    """Yield all nodes below `scope`."""
    for field, value in ast.iter_fields(scope):
        if isinstance(value, ast.AST):
            yield Place(scope, field, None, value)
            yield from places(value)
        elif isinstance(value, list):
            for index, node in enumerate(value):
                if isinstance(node, ast.AST):
                    yield Place(scope, field, index, node)
                    yield from places(node)


def find(tree: ast.AST, symbol: str) -> Place:
    """Return the definition of a symbol, or the assignment of a constant."""
    found: list[Place] = []
    for name in symbol.partition(":")[2].split("."):
        scope = found[0].node if found else tree
        found = [place for place in _statements(scope) if name in _names(place.node)]
        _check_one(found, symbol)
    return found[0]


def _statements(scope: ast.AST) -> Iterator[Place]:
    """Yield the statements of a scope, also those inside of `if`, `with` and `try`."""
    for field, value in ast.iter_fields(scope):
        for index, node in enumerate(value if isinstance(value, list) else []):
            if isinstance(node, ast.stmt | ast.ExceptHandler):
                yield Place(scope, field, index, node)
                if not isinstance(node, Definition):
                    yield from _statements(node)


def _names(node: ast.AST) -> set[str]:
    """Return the names that a definition or an assignment defines."""
    if isinstance(node, Definition):
        return {node.name}
    return {name.id for target in _targets(node) for name in _elements(target)}


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def _elements(target: ast.expr) -> list[ast.Name]:
    """Return the names in the target of an assignment: one, or several in a tuple."""
    elements = target.elts if isinstance(target, ast.Tuple) else [target]
    return [each for each in elements if isinstance(each, ast.Name)]


def _check_one(found: Sequence[object], wanted: str) -> None:
    if len(found) != 1:
        raise NotFound(f"{len(found)} places instead of one: {wanted}")


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _same(node: ast.AST, text: str) -> bool:
    """Return whether a node is the expression or statement `text`, in any layout."""
    return isinstance(node, ast.expr | ast.stmt) and ast.unparse(node) == _normalized(
        text
    )


@cache
def _normalized(text: str) -> str:
    match ast.parse(text):
        case ast.Module(body=[ast.Expr(value=expression)]):
            return ast.unparse(expression)
        case statements:
            return ast.unparse(statements)


def _mentions(node: ast.AST, text: str) -> bool:
    """Return whether the expression `text` is part of a node. The empty text is."""
    return not text or any(_same(each, text) for each in ast.walk(node))


@dataclass(frozen=True)
class Change(ABC):
    """A change of one symbol."""

    symbol: str

    @property
    def file(self) -> str:
        return self.symbol.partition(":")[0].replace(".", "/") + ".py"

    def apply(self, root: Path) -> None:
        """Change the copy of the code in `root`. Raises NotFound."""
        path = root / self.file
        tree = ast.parse(path.read_text())
        self.change(find(tree, self.symbol))
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)))

    @abstractmethod
    def change(self, definition: Place) -> None:
        """Change the symbol's definition. Raises NotFound."""

    def only(self, scope: ast.AST, matches: Callable[[Place], bool]) -> Place:
        found = [place for place in places(scope) if matches(place)]
        _check_one(found, str(self))
        return found[0]


@dataclass(frozen=True)
class Replace(Change):
    """Replace an expression or a statement. Without `new` the statement is dropped."""

    old: str
    new: str = ""

    def change(self, definition: Place) -> None:
        old, new = ast.parse(self.old).body, ast.parse(self.new).body
        match [*old, *new]:
            case [ast.Expr(), ast.Expr(value=expression)]:
                place = self._place(definition, ast.expr)
                place.replace(expression)
            case _:
                self._place(definition, ast.stmt).replace_statement(new)

    def _place(self, definition: Place, kind: type[ast.AST]) -> Place:
        return self.only(
            definition.node,
            lambda place: isinstance(place.node, kind) and _same(place.node, self.old),
        )


@dataclass(frozen=True)
class Drop(Change):
    """Drop the statement that calls or assigns `name`, and mentions `mentions`."""

    name: str
    mentions: str = ""

    def change(self, definition: Place) -> None:
        self.only(definition.node, self._matches).replace_statement([])

    def _matches(self, place: Place) -> bool:
        heads = _targets(place.node)
        match place.node:
            case ast.Expr(value=ast.Call(func=function)):
                heads = [function]
        is_named = any(_same(head, self.name) for head in heads)
        return is_named and _mentions(place.node, self.mentions)


@dataclass(frozen=True)
class DropDefinition(Change):
    """Drop a function. A class then has the function of its base class."""

    def change(self, definition: Place) -> None:
        definition.replace_statement([])


@dataclass(frozen=True)
class Prepend(Change):
    """Execute statements at the start of a function."""

    statements: str

    def change(self, definition: Place) -> None:
        function = definition.node
        assert isinstance(function, ast.FunctionDef)
        start = 0 if ast.get_docstring(function) is None else 1
        function.body[start:start] = ast.parse(self.statements).body


@dataclass(frozen=True)
class Return(Change):
    """Let a function only return a value."""

    value: str

    def change(self, definition: Place) -> None:
        assert isinstance(definition.node, ast.FunctionDef)
        definition.node.body = [ast.Return(_expression(self.value))]


@dataclass(frozen=True)
class SetCondition(Change):
    """Set the condition that is, or else mentions, `mentions`; by default the only one.

    Conditions are those of `if`, `while`, conditional expressions and comprehensions.
    """

    mentions: str = ""
    to: str = "False"

    def change(self, definition: Place) -> None:
        conditions = [
            each for each in places(definition.node) if each.field in ("test", "ifs")
        ]
        exact = [each for each in conditions if _same(each.node, self.mentions)]
        found = exact or [
            each for each in conditions if _mentions(each.node, self.mentions)
        ]
        _check_one(found, str(self))
        found[0].replace(_expression(self.to))


@dataclass(frozen=True)
class SetArgument(Change):
    """Set the keyword argument of a call that mentions `mentions`. None drops it."""

    call: str
    argument: str
    to: str | None
    mentions: str = ""

    def change(self, definition: Place) -> None:
        call = self.only(definition.node, self._matches).node
        assert isinstance(call, ast.Call)
        others = [each for each in call.keywords if each.arg != self.argument]
        if self.to is None:
            _check_one(call.keywords[len(others) :], str(self))
            call.keywords = others
        else:
            call.keywords = [*others, ast.keyword(self.argument, _expression(self.to))]

    def _matches(self, place: Place) -> bool:
        match place.node:
            case ast.Call(func=function):
                return _same(function, self.call) and _mentions(
                    place.node, self.mentions
                )
        return False


@dataclass(frozen=True)
class SetValue(Change):
    """Set the value of a constant."""

    to: str

    def change(self, definition: Place) -> None:
        name = self.symbol.rpartition(":")[2].rpartition(".")[2]
        match definition.node:
            case ast.Assign(
                targets=[ast.Tuple() as target], value=ast.Tuple() as value
            ):
                names = [element.id for element in _elements(target)]
                value.elts[names.index(name)] = _expression(self.to)
            case ast.Assign() | ast.AnnAssign() as assignment:
                assignment.value = _expression(self.to)
            case _:
                raise NotFound(f"{self.symbol} is not a constant")


@dataclass(frozen=True)
class DropKey(Change):
    """Drop a key with its value from a dictionary."""

    key: str

    def change(self, definition: Place) -> None:
        place = self.only(definition.node, self._matches)
        assert isinstance(place.owner, ast.Dict)
        assert place.index is not None
        del place.owner.keys[place.index], place.owner.values[place.index]

    def _matches(self, place: Place) -> bool:
        return place.field == "keys" and _same(place.node, self.key)


@dataclass(frozen=True)
class ReplaceText(Change):
    """Replace text in the strings of a symbol, such as a clause of SQL.

    White space does not matter. In an f-string, `new` may have placeholders.
    """

    old: str
    new: str = ""

    def change(self, definition: Place) -> None:
        place = self.only(definition.node, self._matches)
        assert isinstance(place.node, ast.Constant)
        before, after = self._split(str(place.node.value))
        if isinstance(place.owner, ast.JoinedStr):
            new = _expression("f" + repr(self.new))
            assert isinstance(new, ast.JoinedStr)
            assert place.index is not None
            parts = [ast.Constant(before), *new.values, ast.Constant(after)]
            place.owner.values[place.index : place.index + 1] = parts
        else:
            place.replace(ast.Constant(before + self.new + after))

    def _matches(self, place: Place) -> bool:
        match place.node:
            case ast.Constant(value=str(text)) if not isinstance(place.owner, ast.Expr):
                return len(self._split(text)) > 1
        return False

    def _split(self, text: str) -> list[str]:
        """Return the text around each place where `old` is found."""
        tokens = re.findall(r"\w+|[^\w\s]", self.old)
        return re.split(r"\s*".join(map(re.escape, tokens)), text)


@dataclass(frozen=True)
class ReplaceInFile:
    """Replace text in a file that is not Python."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        path = root / self.file
        text = path.read_text()
        _check_one([self.old] * text.count(self.old), str(self))
        path.write_text(text.replace(self.old, self.new))
