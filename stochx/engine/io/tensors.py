"""Files of tensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stochx.engine.io.files import atomic


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors, contiguous and without aliases, as a safetensors file; raises `WriteError`."""
    with atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file({**tensors}, temporary, metadata={**metadata})
            temporary.chmod(mode)  # the library gives nobody else access
        except SafetensorError as error:  # `Error while serializing: I/O error: No space left on device (os error 28)`
            raise OSError(str(error).rpartition("error: ")[2].partition(" (os error")[0]) from None
