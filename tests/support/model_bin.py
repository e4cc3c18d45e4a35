"""A second, slow implementation of model.bin, written from docs/formats/model.md alone.

Nothing here imports the product: encoder and decoder are loops over single weights, so that a file
written by the product and one written here agree only if both keep to the page.
"""

import dataclasses
import fractions
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

ORDER = (
    (1, "embedding"), (2, "rope_inv_freq"), (3, "input_norm"), (4, "q"), (5, "k"), (6, "v"),
    (7, "attn_sub_norm"), (8, "o"), (9, "post_attention_norm"), (10, "gate"), (11, "up"),
    (12, "ffn_sub_norm"), (13, "down"), (14, "final_norm"), (15, "head"),
)  # fmt: skip
ROLE_NUMBERS = {name: number for number, name in ORDER}
NONE = 0xFFFFFFFF


def round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def encode_ternary(weights: Any) -> bytes:
    """Tiles of 16 rows; block k; byte 4r + b; bits 2p: column 16k + 4p + b."""
    rows, cols = len(weights), len(weights[0])
    out = bytearray()
    for tile in range(round_up(rows, 16) // 16):
        for k in range(round_up(cols, 16) // 16):
            for r in range(16):
                for b in range(4):
                    byte = 0
                    for p in range(4):
                        row, col = 16 * tile + r, 16 * k + 4 * p + b
                        inside = row < rows and col < cols
                        code = int(weights[row][col]) + 1 if inside else 1
                        byte |= code << (2 * p)
                    out.append(byte)
    return bytes(out)


def decode_ternary(data: bytes, rows: int, cols: int) -> list[list[int]]:
    result = [[9] * cols for _ in range(rows)]
    blocks = round_up(cols, 16) // 16
    for index, byte in enumerate(data):
        block, rest = divmod(index, 64)
        tile, k = divmod(block, blocks)
        r, b = divmod(rest, 4)
        for p in range(4):
            row, col = 16 * tile + r, 16 * k + 4 * p + b
            code = byte >> (2 * p) & 3
            if row < rows and col < cols:
                result[row][col] = code - 1
            else:
                assert code == 1
    return result


def quantize_row(row: Any) -> tuple[list[int], float]:
    """code = round-half-even(w / scale), scale = max|row| / 127, each operation in binary32."""
    scale = np.float32(max(abs(np.float32(w)) for w in row)) / np.float32(127)
    if scale == 0:
        return [0] * len(row), 0.0
    codes = [round(float(np.float32(w) / scale)) for w in row]  # Python rounds halves to even
    return [max(-127, min(127, code)) for code in codes], float(scale)


def encode_int8(values: Any) -> bytes:
    rows, cols = len(values), len(values[0])
    quantized = [quantize_row(row) for row in values]

    def stored(row: int, col: int) -> int:
        return (quantized[row][0][col] if row < rows and col < cols else 0) + 128

    high, low = bytearray(), bytearray()
    for tile in range(round_up(rows, 16) // 16):
        for k in range(round_up(cols, 16) // 8):
            for r in range(16):
                for b in range(4):
                    row = 16 * tile + r
                    pair = stored(row, 8 * k + b) // 16, stored(row, 8 * k + 4 + b) // 16
                    high.append(pair[0] + 16 * pair[1])
    for row in range(round_up(rows, 16)):
        for k in range(round_up(cols, 128) // 128):
            for j in range(64):
                pair = stored(row, 128 * k + j) % 16, stored(row, 128 * k + 64 + j) % 16
                low.append(pair[0] + 16 * pair[1])
    padding = bytes(4 * (round_up(rows, 16) - rows))
    scales = struct.pack(f"<{rows}f", *(scale for _, scale in quantized))
    squares = [sum((2 * ((code + 128) % 16) - 15) ** 2 for code in row) for row, _ in quantized]
    norms = struct.pack(f"<{rows}f", *(root_above(square) / 2 for square in squares))
    return bytes(high) + bytes(low) + scales + padding + norms + padding


def root_above(square: int) -> float:
    """The smallest binary32 number whose square is not below an integer."""
    bits = 0
    for bit in range(30, -1, -1):  # positive binary32 numbers are in the order of their bits
        value = struct.unpack("<f", struct.pack("<I", bits | 1 << bit))[0]
        if value < 2.0**20 and fractions.Fraction(value) ** 2 < square:
            bits |= 1 << bit
    return float(struct.unpack("<f", struct.pack("<I", bits + (square > 0)))[0])


def encode_f32(values: Any) -> bytes:
    out = bytearray()
    for row in values:
        for value in row:
            out += struct.pack("<f", value)
        out += bytes(4 * (round_up(len(row), 16) - len(row)))
    return bytes(out)


@dataclasses.dataclass
class Geometry:
    """The header's fields that the caller chooses."""

    hidden_size: int
    intermediate_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocab_size: int
    context_max: int
    activation: int
    flags: int
    norm_eps: float
    kind: int
    bos_id: int
    eos_ids: tuple[int, ...]
    tokenizer_sha384: bytes = bytes(48)


def tensor_list(g: Geometry) -> list[tuple[str, int, int, int, int]]:
    """(role, layer or NONE, kind, rows, cols) in the order of the file."""
    heads, kv = g.head_count * g.head_dim, g.kv_head_count * g.head_dim
    h, f = g.hidden_size, g.intermediate_size
    shapes = {
        "q": (heads, h), "k": (kv, h), "v": (kv, h), "o": (h, heads), "gate": (f, h),
        "up": (f, h), "down": (h, f), "input_norm": (1, h), "attn_sub_norm": (1, heads),
        "post_attention_norm": (1, h), "ffn_sub_norm": (1, f),
    }  # fmt: skip
    result = [
        ("embedding", NONE, g.kind, g.vocab_size, h),
        ("rope_inv_freq", NONE, 4, 1, g.head_dim // 2),
    ]
    for layer in range(g.layer_count):
        for number, role in ORDER[2:13]:
            if (number == 7 and not g.flags & 2) or (number == 12 and not g.flags & 4):
                continue
            kind = 1 if role in ("q", "k", "v", "o", "gate", "up", "down") else 4
            result.append((role, layer, kind, *shapes[role]))
    result.append(("final_norm", NONE, 4, 1, h))
    if not g.flags & 1:
        result.append(("head", NONE, g.kind, g.vocab_size, h))
    return result


def encode_model(
    g: Geometry,
    scale_of: Callable[[str, int], float],
    values_of: Callable[[str, int], Any],
) -> bytes:
    """Returns a whole file; the functions give the multiplier and the rows of a tensor."""
    tensors = tensor_list(g)
    header_bytes = round_up(512 + 64 * len(tensors), 4096)
    data, table = bytearray(), bytearray()
    encoders = {1: encode_ternary, 3: encode_int8, 4: encode_f32}
    for role, layer, kind, rows, cols in tensors:
        body = encoders[kind](values_of(role, layer))
        scale = scale_of(role, layer) if kind == 1 else 0.0
        offset = header_bytes + len(data)
        entry = (ROLE_NUMBERS[role], layer, kind, rows, cols, scale, offset, len(body))
        table += struct.pack("<IIIIIfQQ24x", *entry)
        data += body + bytes(round_up(len(body), 4096) - len(body))
    leaves = bytearray()
    for index in range(0, len(data), 65536):
        leaf = bytes(data[index : index + 65536])
        prefix = b"\x00" + (index // 65536).to_bytes(8, "little") + len(leaf).to_bytes(8, "little")
        leaves += hashlib.sha3_384(prefix + leaf).digest()
    leaves_offset = header_bytes + len(data)
    eos = [*g.eos_ids, *[NONE] * (8 - len(g.eos_ids))]
    fixed = struct.pack(
        "<8sIIQ10Iff4I8IIIQQQQ8x48s48x248x",
        b"BNAGMODL", 1, header_bytes, leaves_offset + len(leaves),
        g.hidden_size, g.intermediate_size, g.layer_count, g.head_count, g.kv_head_count,
        g.head_dim, g.vocab_size, g.context_max, g.activation, g.flags,
        g.norm_eps, 1 / g.head_dim**0.5,
        g.kind, g.kind, g.bos_id, len(g.eos_ids), *eos,
        len(tensors), 65536, header_bytes, len(data), leaves_offset, len(leaves) // 48,
        g.tokenizer_sha384,
    )  # fmt: skip
    header = bytearray(fixed + table)
    header += bytes(header_bytes - len(header))
    header[216:264] = hashlib.sha3_384(b"\x01" + bytes(header) + bytes(leaves)).digest()
    return bytes(header + data + leaves)


def seal(data: bytes | bytearray, header_bytes: int, data_bytes: int) -> bytes:
    """Returns the file with leaf digests and root computed again: well-sealed lies."""
    leaves = bytearray()
    body = data[header_bytes : header_bytes + data_bytes]
    for index in range(0, data_bytes, 65536):
        leaf = bytes(body[index : index + 65536])
        prefix = b"\x00" + (index // 65536).to_bytes(8, "little") + len(leaf).to_bytes(8, "little")
        leaves += hashlib.sha3_384(prefix + leaf).digest()
    header = bytearray(data[:header_bytes])
    header[216:264] = bytes(48)
    header[216:264] = hashlib.sha3_384(b"\x01" + bytes(header) + bytes(leaves)).digest()
    return bytes(header) + bytes(body) + bytes(leaves)
