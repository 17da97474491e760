"""Closed choices, each checked, shown in the help and completed; and the suffixes of files of weights."""

from typing import Literal

Norm = Literal["linf", "l2", "l1"]
Precision = Literal["auto", "fp32", "bf16", "tf32"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one-cycle", "cosine", "step", "constant"]
Recipe = Literal["madry", "mixed", "trades", "ard"]
Init = Literal["teacher", "random"]
Randomness = Literal["secret", "known", "off"]
Judge = Literal["any", "last"]
Checks = Literal["none", "quick", "full"]
FailOn = Literal["point", "lower"]
Sampling = Literal["first", "balanced"]
Format = Literal["table", "markdown", "json", "tsv", "junit"]
Plane = Literal["images", "gradient", "attack"]
FigureFormat = Literal["png", "pdf", "svg"]

WEIGHTS = frozenset({".safetensors", ".pt2", ".pt", ".pth", ".th", ".bin", ".tar", ".ckpt", ".pkl"})
