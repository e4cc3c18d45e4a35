"""llama.cpp as a program that takes the commands of bench/decode_main.cc.

    python llama_program.py MODEL THREADS CONTEXT

Greedy, keys and values in f16, the model mapped, batches of 512, no flash attention; everything
else as llama.cpp chooses it.
"""

import ctypes
import json
import os
import resource
import sys
import time

import llama_cpp
import numpy as np

BATCH = 512
F16 = 1
MMAP = 1
FLASH_OFF = 0


def random_token(index: int, vocab_size: int) -> int:
    """SplitMix64 of the index, as bench/decode_main.cc draws its tokens."""
    mask = (1 << 64) - 1
    z = (index + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return (z ^ z >> 31) % vocab_size


def peak_bytes() -> int:
    """The most memory that was resident so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Peer:
    """One model in one context."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.load_mode = MMAP
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            sys.exit(f"error: model cannot be loaded: `{path}`")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = BATCH
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = F16
        options.flash_attn_type = FLASH_OFF
        options.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            sys.exit("error: context cannot be made")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )

    def forward(self, tokens: list[int]) -> int:
        """Appends the tokens and returns the greedy choice after the last."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        code = llama_cpp.llama_decode(
            self.context, llama_cpp.llama_batch_get_one(array, len(tokens))
        )
        if code != 0:
            sys.exit(f"error: llama_decode gave {code}")
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(address, (self.vocab_size,)).argmax())

    def go_to(self, position: int) -> None:
        """Forgets everything from a position on."""
        if not llama_cpp.llama_memory_seq_rm(self.memory, 0, position, -1):
            sys.exit("error: cache cannot be cut")

    def decode(self, position: int, count: int) -> tuple[list[int], int]:
        """Times `count` tokens, one after the other."""
        self.go_to(position)
        token = random_token(position, self.vocab_size)
        times = []
        for _ in range(count):
            begin = time.perf_counter_ns()
            token = self.forward([token])
            times.append(time.perf_counter_ns() - begin)
        return times, token

    def prefill(self, position: int, count: int) -> tuple[list[int], int]:
        """Times `count` tokens in batches."""
        self.go_to(position)
        tokens = [random_token(position + i, self.vocab_size) for i in range(count)]
        times = []
        token = 0
        for done in range(0, count, BATCH):
            begin = time.perf_counter_ns()
            token = self.forward(tokens[done : done + BATCH])
            times.append(time.perf_counter_ns() - begin)
        return times, token


def main() -> int:
    """Answers commands until the input ends."""
    path, threads, context = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    base = peak_bytes()
    peer = Peer(path, int(threads), int(context))
    facts = {
        "engine": f"llama-cpp-python {llama_cpp.__version__}",
        "threads": llama_cpp.llama_n_threads(peer.context),
        "base_bytes": base,
        "system": llama_cpp.llama_print_system_info().decode(),
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
