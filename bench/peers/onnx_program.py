"""ONNX Runtime as a program that takes the commands of bench/decode_main.cc.

    python onnx_program.py MODEL THREADS CONTEXT

The chain of bench/peers/onnx_model.py has no positions: those of commands mean nothing. Its input
is one random row for each token.
"""

import json
import os
import resource
import sys
import time

import numpy as np
import onnxruntime


def peak_bytes() -> int:
    """The most memory that was resident so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Peer:
    """One session."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        width = self.session.get_inputs()[0].shape[2]
        random = np.random.default_rng(1)
        self.rows = random.standard_normal((1, context, width), np.float32)

    def forward(self, first: int, count: int) -> int:
        """Returns the greedy choice after `count` rows."""
        (logits,) = self.session.run(None, {"hidden": self.rows[:, first : first + count]})
        return int(logits.argmax())

    def decode(self, _position: int, count: int) -> tuple[list[int], int]:
        """Times `count` tokens, one after the other."""
        times = []
        token = 0
        for i in range(count):
            begin = time.perf_counter_ns()
            token = self.forward(i % self.rows.shape[1], 1)
            times.append(time.perf_counter_ns() - begin)
        return times, token

    def prefill(self, _position: int, count: int) -> tuple[list[int], int]:
        """Times `count` tokens at once."""
        begin = time.perf_counter_ns()
        token = self.forward(0, count)
        return [time.perf_counter_ns() - begin], token


def main() -> int:
    """Answers commands until the input ends."""
    path, threads, context = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    base = peak_bytes()
    peer = Peer(path, int(threads), int(context))
    facts = {
        "engine": f"onnxruntime {onnxruntime.__version__}",
        "threads": peer.session.get_session_options().intra_op_num_threads,
        "base_bytes": base,
    }
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        name, position, count = line.split()
        before = resource.getrusage(resource.RUSAGE_SELF)
        times, token = getattr(peer, {"decode": "decode", "prefill": "prefill"}[name])(
            int(position), int(count)
        )
        after = resource.getrusage(resource.RUSAGE_SELF)
        reads = after.ru_majflt - before.ru_majflt
        faults = after.ru_minflt - before.ru_minflt + reads
        answer = {"ns": times, "next": token, "faults": faults, "reads": reads}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
