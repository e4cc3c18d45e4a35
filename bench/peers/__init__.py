"""Other engines on the same work, in the same rounds: `python -m bench.peers`."""
