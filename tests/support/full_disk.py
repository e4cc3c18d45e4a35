"""A disk that is nearly full, as far as one process sees it."""

import contextlib
import resource
from collections.abc import Iterator

__all__ = ["file_limit"]


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Lets no file of this process grow beyond `size`: a write gives less, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
