"""A machine that runs a pickle, which is a program: it imports no name and makes no call."""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from stochx.engine.network.pickled_tensors import LENGTH, Builder, Name, Network, Storages, Stub, is_key

OPERATIONS = 3_000_000  # of a pickle; a network of 3,000 tensors has 0.1 million
NODES = 100_000  # of the content beyond twice the operations, counted once a path to it
LEVELS = 8  # of mappings and lists that are counted
VALUES = frozenset(  # codes that carry one
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)


class Content(NamedTuple):
    """What a file holds, and the class of the outermost network in it, whose code is not run, if there is one."""

    value: object
    network: str


class Machine:
    """Run one pickle of a stream."""

    def __init__(self, stream: Any, storage: Storages, size: int) -> None:
        self.stream, self.builder = stream, Builder(storage, size, self.spend)
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below marks
        self.memo: dict[int, Any] = {}
        self.left, self.network = OPERATIONS, ""

    def content(self) -> Content:
        """Return what the pickle builds."""
        operations = {name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")}
        for code, argument, _ in pickletools.genops(self.stream):
            self.spend(1)
            if code.name in VALUES:
                self.stack.append(argument)
            elif code.name in operations:
                operations[code.name](argument)
            elif code.name != "STOP":
                raise ValueError(f"its pickle uses `{code.name}`, which is not for files")
        value = self.stack.pop()
        _check_extent(value, NODES + 2 * (OPERATIONS - self.left))
        return Content(value, self.network)

    def spend(self, operations: int) -> None:
        """Count operations; raises `ValueError` when there were too many."""
        self.left -= operations
        if self.left < 0:
            raise ValueError("its pickle is too long")

    def marked(self) -> list[Any]:
        """Return what was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def do_PROTO(self, _: object) -> None: ...

    do_FRAME = do_PROTO

    def do_MARK(self, _: object) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def do_POP(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def do_POP_MARK(self, _: object) -> None:
        self.marked()

    def do_DUP(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def do_NONE(self, _: object) -> None:
        self.stack.append(None)

    def do_NEWTRUE(self, _: object) -> None:
        self.stack.append(True)

    def do_NEWFALSE(self, _: object) -> None:
        self.stack.append(False)

    def do_EMPTY_LIST(self, _: object) -> None:
        self.stack.append([])

    def do_EMPTY_TUPLE(self, _: object) -> None:
        self.stack.append(())

    def do_EMPTY_DICT(self, _: object) -> None:
        self.stack.append({})

    do_EMPTY_SET = do_EMPTY_LIST

    def do_LIST(self, _: object) -> None:
        items = self.marked()
        self.stack.append(items)

    do_FROZENSET = do_LIST

    def do_TUPLE(self, _: object) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def do_DICT(self, _: object) -> None:
        items = self.marked()
        self.stack.append({})
        self.put(items)

    def do_TUPLE1(self, _: object) -> None:
        self.stack.append((self.stack.pop(),))

    def do_TUPLE2(self, _: object) -> None:
        second, first = self.stack.pop(), self.stack.pop()
        self.stack.append((first, second))

    def do_TUPLE3(self, _: object) -> None:
        third, second, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append((first, second, third))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def do_APPEND(self, _: object) -> None:
        self.extend([self.stack.pop()])

    def do_APPENDS(self, _: object) -> None:
        self.extend(self.marked())

    do_ADDITEMS = do_APPENDS

    def put(self, items: list[Any]) -> None:
        """Put keys and values into a mapping; keys that are no names or small numbers are of no network."""
        if type(self.stack[-1]) is dict:
            pairs = zip(items[::2], items[1::2], strict=True)
            self.stack[-1].update({key: value for key, value in pairs if is_key(key)})

    def do_SETITEM(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def do_SETITEMS(self, _: object) -> None:
        self.put(self.marked())

    def do_GET(self, place: int) -> None:
        self.stack.append(self.memo[place])

    do_BINGET = do_LONG_BINGET = do_GET

    def do_PUT(self, place: int) -> None:
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], Stub):
            self.stack[-1].place = place

    do_BINPUT = do_LONG_BINPUT = do_PUT

    def do_MEMOIZE(self, _: object) -> None:
        self.do_PUT(len(self.memo))

    def do_GLOBAL(self, names: str) -> None:
        self.stack.append(_name(*names.split(" ", 1)))

    def do_STACK_GLOBAL(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_name(module, name))

    def do_INST(self, names: str) -> None:
        arguments = self.marked()
        self.stack.append(self.builder.made(_name(*names.split(" ", 1)), tuple(arguments)))

    def do_OBJ(self, _: object) -> None:
        made, *arguments = self.marked()
        self.stack.append(self.builder.made(made, tuple(arguments)))

    def do_NEWOBJ_EX(self, _: object) -> None:
        self.stack.pop()
        self.do_REDUCE(None)

    def do_REDUCE(self, _: object) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        self.stack.append(self.builder.made(made, arguments))

    do_NEWOBJ = do_REDUCE

    def do_BUILD(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        built = self.builder.built(target, state)
        if built is not None:
            self.stack[-1] = built
            if target.place is not None:
                self.memo[target.place] = built
        if isinstance(built, Network):
            self.network = target.name  # that of the outermost one comes last

    def do_BINPERSID(self, _: object) -> None:
        place = self.stack.pop()
        if not isinstance(place, tuple) or len(place) not in (4, 5, 6) or any(item is not None for item in place[5:]):
            raise ValueError("unknown kind of storage")
        if place[0] == "module" and len(place) == 4:  # a class of layers, with its source
            self.stack.append(place[1])
        else:
            self.stack.append(self.builder.stored(*place[:5]))


def _name(module: object, name: object) -> Name:
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LENGTH:
        raise ValueError("a name in its pickle is none")
    return Name(f"{module}.{name}")


def _check_extent(content: object, most: int) -> None:
    """Raise `ValueError` where mappings and lists hold one another so often that a walk through them would not end."""
    left, level = most, [content]
    for _ in range(LEVELS):
        below: list[object] = []
        for node in level:
            children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
            left -= len(children)
            if left < 0:
                raise ValueError("its content refers to itself too often")
            below.extend(child for child in children if isinstance(child, dict | list | tuple))
        level = below
