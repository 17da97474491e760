"""Hostile pickles, as bytes: each would run `canary()`, read a file, or take all memory or time, in another reader."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zipfile

import torch

from stochx.engine.network import pickles

RAN: list[str] = []


def canary(*_: object) -> dict[str, object]:
    RAN.append("ran")
    return {}


class Call:
    def __init__(self, made, *arguments, state=None):
        self.parts = (made, arguments) if state is None else (made, arguments, state)

    def __reduce__(self):
        return self.parts


CANARY = f"c{__name__}\ncanary\n".encode()
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
DOUBLED = b"}q\x00" + b"".join(b"}(U\x01ah%cU\x01bh%cuq%c" % (i, i, i + 1) for i in range(60)) + b"."


def one_tensor(size=b"K\x04\x85", stride=b"K\x01\x85", offset=b"K\x00", storage=STORAGE):
    return b"\x80\x02}X\x01\x00\x00\x00w" + TENSOR + b"(" + storage + offset + size + stride + b"\x89NtRs."


def dumped(value, protocol=2):
    return pickle.dumps({"x": value}, protocol)


HOSTILE = {
    "os.system": lambda: dumped(Call(os.system, "touch ran")),
    "os.system, protocol 4": lambda: dumped(Call(os.system, "touch ran"), 4),
    "eval": lambda: dumped(Call(eval, "open('ran', 'w')")),
    "exec": lambda: dumped(Call(exec, "open('ran', 'w')")),
    "getattr chain": lambda: dumped(Call(getattr, Call(__import__, "os"), "mkdir")),
    "nested REDUCE": lambda: dumped(Call(canary, Call(canary, Call(canary)))),
    "torch.load": lambda: dumped(Call(torch.load, "w.pt")),
    "torch.hub": lambda: dumped(Call(torch.hub.load_state_dict_from_url, "file:///etc/passwd")),
    "torch.jit.load": lambda: dumped(Call(torch.jit.load, "w.pt")),
    "torch.from_file": lambda: dumped(Call(torch.from_file, "ran", True, 4)),
    "a call as a state": lambda: dumped(Call(collections.OrderedDict, state={"x": Call(canary)})),
    "a call in a rebuild": lambda: dumped(Call(torch._utils._rebuild_parameter, Call(canary), False, {})),
    "a call as a hook": lambda: one_tensor().replace(b"NtR", CANARY + b")RtR"),
    "a call as a rebuild": lambda: b"ctorch._utils\n_rebuild_from_type_v2\n(" + CANARY + CANARY + b")}tR.",
    "defaultdict": lambda: b"ccollections\ndefaultdict\n" + CANARY + b"\x85R(U\x01ah\x00u.".replace(b"h\x00", b"N"),
    "INST": lambda: b"(S'touch ran'\nios\nsystem\n.",
    "OBJ": lambda: b"(cos\nsystem\nS'touch ran'\no.",
    "NEWOBJ": lambda: b"\x80\x02" + CANARY + b")\x81.",
    "NEWOBJ_EX": lambda: b"\x80\x04" + CANARY + b")}\x92.",
    "STACK_GLOBAL": lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
    "STACK_GLOBAL, dotted": lambda: b"\x80\x04\x8c\x08builtins\x8c\x0d__import__.os\x93\x8c\x02os\x85R.",
    "STACK_GLOBAL of no text": lambda: b"\x80\x04K\x01K\x02\x93.",
    "EXT1": lambda: b"\x80\x02\x82\xf0)R.",
    "EXT2": lambda: b"\x80\x02\x83\xf0\x00)R.",
    "EXT4": lambda: b"\x80\x02\x84\xf0\x00\x00\x00)R.",
    "BUILD on a class": lambda: b"\x80\x02" + CANARY + b"}U\x06__eq__NsN\x86b.",
    "BUILD on a tensor": lambda: one_tensor()[:-2] + b"}U\x04dataNsbs.",
    "SETITEM on a tensor": lambda: one_tensor()[:-2] + b"K\x00K\x01ss.",
    "items of OrderedDict": lambda: b"ccollections\nOrderedDict\n)R}U\x05itemsK\x05sb.",
    "nested tuples as a key": lambda: b"}" + b")" + b"\x85" * 250_000 + b"Ns.",
    "nested lists": lambda: b"]" * 120_000 + b"a" * 119_999 + b".",
    "nested marks": lambda: b"(" * 200_000 + b"N" + b".",
    "a list in itself": lambda: b"]q\x00h\x00ah\x00a.",
    "a mapping in itself": lambda: b"}q\x00(U\x01ah\x00U\x01bh\x00U\x01ch\x00u.",
    "doubled 60 times": lambda: DOUBLED,
    "aliases of a mapping": lambda: (
        b"}q\x00}q\x01(" + b"".join(b"U\x02%02xh\x00" % i for i in range(250)) + b"u0"
        b"}q\x02(" + b"".join(b"U\x02%02xh\x01" % i for i in range(250)) + b"u0"
        b"}(" + b"".join(b"U\x02%02xh\x02" % i for i in range(250)) + b"u."
    ),
    "copies of a long list": lambda: (
        b"]q\x00(" + b"K\x01K\x02\x86" * 50_000 + b"e0" + b"ccollections\nOrderedDict\nh\x00\x85R0" * 30_000 + b"N."
    ),
    "networks doubled 40 times": lambda: (
        b"\x80\x02c__torch__\nN\n)\x81}U\x01w"
        + one_tensor()[len(b"\x80\x02}X\x01\x00\x00\x00w") : -2]
        + b"sbq\x00"
        + b"".join(b"c__torch__\nN\n)\x81}(U\x01ah%cU\x01bh%cubq%c" % (i, i, i + 1) for i in range(40))
        + b"."
    ),
    "a network in itself": lambda: b"\x80\x02c__torch__\nN\n)\x81q\x00}U\x01ah\x00sb.",
    "an array of 2**60": lambda: (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01\x8a\x08" + struct.pack("<q", 2**60) + b"\x85cnumpy\ndtype\nU\x02f4\x85R\x89C\x01xtbs."
    ),
    "a call as an array": lambda: b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + CANARY + b")R\x85R.",
    "a call as bytes": lambda: b"\x80\x02c_codecs\nencode\n" + CANARY + b")RX\x06\x00\x00\x00latin1\x86R.",
    "a long memo": lambda: b"}r\x00\x00\x00\x7f.",
    "a long BINUNICODE8": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
    "a long BINBYTES8": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "a long FRAME": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "a negative BINSTRING": lambda: b"T\xff\xff\xff\xff.",
    "a long number": lambda: b"I" + b"9" * 5_000_000 + b"\n.",
    "too many operations": lambda: b"N0" * 400_000 + b"N.",
    "an odd escape": lambda: b"ca\\hb\nc\n.",
    "an empty stack": lambda: b"0000.",
    "no end": lambda: b"}",
    "a persistent id as text": lambda: b"Pos\nsystem\n.",
    "a tensor beyond its storage": lambda: one_tensor(size=b"K\x05\x85"),
    "an offset beyond": lambda: one_tensor(offset=b"K\x04"),
    "a negative stride": lambda: one_tensor(stride=b"J\xff\xff\xff\xff\x85"),
    "a tensor of 2**60": lambda: one_tensor(size=b"\x8a\x08" + struct.pack("<q", 2**60) + b"\x85", stride=b"K\x00\x85"),
    "no elements of 2**61": lambda: one_tensor(
        b"K\x00\x8a\x08" + struct.pack("<q", 2**61) + b"\x86", b"K\x01K\x01\x86"
    ),
    "shapes of true": lambda: one_tensor(size=b"\x88\x85"),
    "no such member": lambda: one_tensor(storage=STORAGE.replace(b"\x01\x00\x00\x000X", b"\x07\x00\x00\x00../../0X")),
    "a storage of another size": lambda: one_tensor(storage=STORAGE.replace(b"K\x04tQ", b"K\x07tQ")),
    "a storage of os.system": lambda: one_tensor(storage=STORAGE.replace(b"ctorch\nFloatStorage", b"cos\nsystem")),
}


def archive(path, program, members=()):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", bytes(16))
        for name, content in members:
            file.writestr(name, content)


def legacy(path, program):
    keys = ["0"] if STORAGE[:13] in program else []
    start = b"".join(pickle.dumps(value, 2) for value in (pickles.MAGIC, pickles.PROTOCOL, {}))
    path.write_bytes(start + program + pickle.dumps(keys, 2) + struct.pack("<q", 4) + bytes(16))
