"""Pickles: hostile programs, and random ones, in each container of PyTorch."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random

from hostile_pickles import HOSTILE, archive, legacy, one_tensor
from torture.inputs import odd
from torture.inputs.command import command
from torture.inputs.watch import CANARY

CODES = [code.code.encode("latin1") for code in pickletools.opcodes]
TEXT = f"open('{CANARY}', 'w')"
RUNNING = (
    f"cos\nsystem\n(S'touch {CANARY}'\ntR",
    f'cbuiltins\nexec\n(S"{TEXT}"\ntR',
    f'cbuiltins\neval\n(S"{TEXT}"\ntR',
    f"cos\nmkdir\n(S'{CANARY}'\ntR",
    f"cposix\nsystem\n(S'touch {CANARY}'\ntR",
    f"csubprocess\ncall\n((lS'touch'\naS'{CANARY}'\natR",
    f"cpathlib\nPath.touch\n(cpathlib\nPath\n(S'{CANARY}'\ntRtR",
    f"(S'touch {CANARY}'\nios\nsystem\n",
    f"(cos\nsystem\nS'touch {CANARY}'\no",
    f"ctorch.storage\n_load_from_bytes\n(ccodecs\nencode\n(S\"cos\\nmkdir\\n(S'{CANARY}'\\ntR.\"\nS'latin1'\ntRtR",
    f"cnumpy\nload\n(S'{CANARY}'\ntR",
    f"cfunctools\npartial\n(cos\nmkdir\nS'{CANARY}'\ntR)R",
    f"ctorch._utils\n_rebuild_from_type_v2\n(cos\nmkdir\ncbuiltins\nstr\n(S'{CANARY}'\nt}}tR",
)
NUMBERS = (
    b"K\x00",
    b"K\x07",
    b"J\xff\xff\xff\xff",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"I9999999999\n",
    b"Gabcdefgh",
    b"\x88",
)


def _bare(path: Path, program: bytes) -> None:
    path.write_bytes(program)


FORMS: tuple[Callable[[Path, bytes], None], ...] = (archive, archive, legacy, _bare)


@cache
def programs() -> Mapping[str, bytes]:
    """Return the hostile programs of the tests, and those that would make a file."""
    made = {name: make() for name, make in HOSTILE.items()}
    made |= {text: b"\x80\x02}U\x01w" + text.encode() + b"s." for text in RUNNING}
    made |= {"a tensor": one_tensor(), "numbers": pickle.dumps({"a": [1, 2.5, "x", b"y", {1: (2, 3)}]}, 4)}
    return {name: program for name, program in made.items() if len(program) < 100_000}


def prepare(folder: Path) -> None:
    """Read a pickle that is one."""
    archive(folder / "net.pt", one_tensor())
    command("info", "net.pt", cwd=folder)


def pickles(draw: Random, folder: Path) -> None:
    """Describe a network whose pickle is hostile, a hostile one that is damaged, or one of random operations."""
    kind, program = draw.randrange(4), programs()[draw.choice(list(programs()))]
    if kind == 1:
        program = odd.damaged(draw, program)
    elif kind == 2:
        program = (
            b"\x80" + bytes([draw.randrange(6)]) + b"".join(_operation(draw) for _ in range(draw.randrange(60))) + b"."
        )
    elif kind == 3:
        place, other = draw.randrange(len(program) + 1), draw.choice(list(programs().values()))
        program = program[:place] + other[draw.randrange(len(other)) :]
    draw.choice(FORMS)(folder / "net.pt", program)
    command("info", "net.pt", cwd=folder)


def _operation(draw: Random) -> bytes:
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(RUNNING).encode()
    if kind == 1:
        return draw.choice(NUMBERS)
    if kind == 2:
        return b"U\x03abc"
    if kind == 3:
        return draw.choice(CODES) + bytes(draw.randrange(256) for _ in range(draw.choice((0, 1, 2, 4, 8))))
    return draw.choice(
        (
            b"(",
            b")",
            b"]",
            b"}",
            b"0",
            b"2",
            b"t",
            b"\x85",
            b"\x86",
            b"R",
            b"b",
            b"s",
            b"u",
            b"a",
            b"e",
            b"q\x00",
            b"h\x00",
        )
    )
