"""Standard streams that may fail: results that cannot be written are an error, messages are not."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from stochx.errors import WriteError


class Stdout(io.TextIOWrapper):
    """Stdout: what it cannot write is a `WriteError`; a reader that has left has seen enough, and misses nothing."""

    _failed: WriteError | None = None

    def write(self, text: str, /) -> int:
        if self._failed is not None:
            raise self._failed
        with self._written():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        if self._failed is None:  # or Python tries once more when it leaves
            with self._written():
                super().flush()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # takes what is still held, and what follows
            if not isinstance(error, BrokenPipeError):
                hint = "free some space, or redirect it elsewhere"
                self._failed = WriteError(f"cannot write to stdout: {error.strerror}", hint)
                raise self._failed from None


class Stderr(io.TextIOWrapper):
    """Stderr: what it cannot write is lost, as a run goes on without its terminal."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def escaping(stream: io.TextIOWrapper, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper:
    r"""Return a stream as one of a kind, which writes what its encoding lacks, or is no text at all, as `\xb1`."""
    return kind(
        stream.buffer,
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
