"""model.bin of version 1 is frozen: the same checkpoint gives the same bytes for good."""

import hashlib

from tests.support.engine import demo_model

# Of the day of the freeze. An exact sum of bytes; the bytes themselves are held against an encoder
# of their own in tests/unit/quantize/test_model_bytes.py.
DEMO_SHA384 = (
    "95d1c3aa1a53d235bb37badc745cbe5dd3da841b960c62bee6bd67b9280b1cb3"
    "bf76dc989f65264fff1d7f2551579b31"
)


def test_model_demo_has_the_bytes_of_the_freeze() -> None:
    """If this fails, files of version 1 that are in use differ from new ones: a change of bytes is
    a new version (docs/formats/model.md)."""
    assert hashlib.sha384(demo_model().read_bytes()).hexdigest() == DEMO_SHA384
