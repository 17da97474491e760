"""The images that a command names, prepared for a network, and the class that it asks about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stochx.engine.io.data import Item
from stochx.engine.io.images import read, to_tensor
from stochx.engine.network.classifier import Classifier
from stochx.errors import InputError, UsageError, suggest
from stochx.loading import load_data
from stochx.tasks.batches import Source


def sources_of(args: Mapping[str, Any], model: Classifier) -> list[Source]:
    """The image files, then the data set's images, `limit` of them at most."""
    limit = args["limit"]
    sources = [Source(str(path), partial(_file, Path(path), model)) for path in args["images"]]
    if args["data"] is not None:
        data = load_data(args["data"])
        count = min(len(data), limit or len(data))
        sources += [Source(data.keys[i], partial(data.item, i, model.preparation)) for i in range(count)]
    if not sources:
        raise InputError(f"`{args['data']}` holds no images", "check the path")
    return sources[:limit]


def _file(path: Path, model: Classifier) -> Item:
    image = model.preparation(read(path))
    return Item(hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest(), to_tensor(image))


def target_of(text: str | None, model: Classifier) -> int | None:
    """A class by its index or name."""
    if text is None:
        return None
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) < len(model.classes):
            raise UsageError(
                f"there is no class {text}: the model has {len(model.classes)}", f"use 0 to {len(model.classes) - 1}"
            )
        return int(text)
    if text not in model.classes:
        raise UsageError(f"the model has no class `{text}`", suggest(text, model.classes) if len(text) < 40 else "")
    return model.classes.index(text)
