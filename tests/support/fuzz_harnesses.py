"""Every fuzz harness: what is linked into it, and what it starts from."""

from tests.support.fuzzing import Harness
from tests.support.infer import demo_config

__all__ = ["HARNESSES"]

# A further harness is one more row.
HARNESSES = (Harness("config", ("base", "format/config.cc"), lambda: [demo_config().encode()]),)
