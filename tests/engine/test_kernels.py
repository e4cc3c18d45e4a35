"""The kernels: equal to an independent NumPy transcription, and to each other, byte by byte.

The driver `kernels_test` compares every table with the scalar code of kernels_definition.h; here it
is run natively, under emulated processors and in sanitizer builds, and each table is compared with
`tests.support.kernel_oracle`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet.seal.sources import engine_root
from bitnet.seal.toolchain import host_arch
from tests.support import kernel_driver as driver
from tests.support import kernel_oracle as oracle
from tests.support.kernel_cases import golden_cases
from tests.support.kernel_driver import Case

Array = np.ndarray[Any, Any]
F = np.float32
ARCHITECTURES = tuple(driver.TABLES)
ALL_TABLES = [(arch, table) for arch, tables in driver.TABLES.items() for table in tables]
COMPARISONS_A_TABLE = 2400


def check_walk(arch: str, *, variant: str = "product", cpu: str | None = None) -> int:
    """Runs the walk, asserts that nothing failed, and returns how many comparisons it made."""
    result = driver.run_driver(driver.build(arch, variant), arch, cpu=cpu)
    text = result.stdout.decode() + result.stderr.decode()
    match = re.search(r"^(\d+) passed, (\d+) failed$", text, re.MULTILINE)
    assert match is not None, text[-2000:]
    assert match[2] == "0", text[-2000:]
    assert result.returncode == 0
    return int(match[1])


# --- the walk: every table against the definition ------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_walk_product_build_all_tables_equal_reference(arch: str) -> None:
    """A kernel would give other bytes than the definition, or touch memory that is not its own."""
    tables = driver.available_tables(driver.build(arch), arch)
    assert tuple(tables) == driver.TABLES[arch]
    if arch != host_arch():
        assert all(tables.values()), "the emulated processor has every instruction set"
    assert check_walk(arch) == COMPARISONS_A_TABLE * sum(tables.values())


@pytest.mark.parametrize(
    ("arch", "cpu", "expected"),
    [
        ("x86_64", "Nehalem", {"ref": True, "avx2": False, "avx512vnni": False}),
        ("x86_64", "Haswell", {"ref": True, "avx2": True, "avx512vnni": False}),
        ("aarch64", "cortex-a53", {"ref": True, "neon": True, "dotprod": False, "i8mm": False}),
        ("aarch64", "cortex-a76", {"ref": True, "neon": True, "dotprod": True, "i8mm": False}),
    ],
)
def test_walk_emulated_processor_runs_what_it_has(
    arch: str, cpu: str, expected: dict[str, bool]
) -> None:
    """A weaker processor would meet an instruction that it does not have."""
    assert driver.available_tables(driver.build(arch), arch, cpu) == expected
    assert check_walk(arch, cpu=cpu) == COMPARISONS_A_TABLE * sum(expected.values())


def test_tables_native_agree_with_kernel_flags() -> None:
    """Detection by CPUID or AT_HWCAP would differ from what the operating system reports."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(" ".join(lines).split())
    needed = {
        "ref": set(),
        "avx2": {"avx", "avx2", "f16c"},
        "avx512vnni": {"avx2", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
        "neon": {"asimd"},
        "dotprod": {"asimd", "asimddp"},
        "i8mm": {"asimd", "asimddp", "i8mm"},
    }
    arch = host_arch()
    found = driver.available_tables(driver.build(arch), arch)
    assert found == {name: needed[name] <= flags for name in driver.TABLES[arch]}


def test_walk_address_and_undefined_sanitizers_find_nothing() -> None:
    """A kernel would read beside its inputs, or rely on behaviour that C++ leaves undefined."""
    check_walk(host_arch(), variant="sanitize")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_walk_undefined_behaviour_traps_find_nothing(arch: str) -> None:
    """The same for the other architecture, where a trap takes the place of a message."""
    check_walk(arch, variant="undefined")


def test_walk_build_with_fused_operations_reports_differences() -> None:
    """The walk would pass whatever the kernels compute: it must notice one rounding too few."""
    result = driver.run_driver(driver.build("aarch64", "fused"), "aarch64")
    assert result.returncode == 1
    failed = [line for line in result.stdout.decode().splitlines() if line.startswith("FAIL")]
    assert len(failed) > 100
    assert all(re.search(" (ref|neon|dotprod|i8mm) size ", line) for line in failed)


# --- every table against the NumPy transcription -------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> list[Case]:
    """Cases with the outputs that the transcription expects."""
    return golden_cases(np.random.default_rng(20260101))


def test_golden_cases_cover_every_operation(golden: list[Case]) -> None:
    """An operation would have no independent oracle."""
    assert {case.operation for case in golden} == set(driver.OPERATIONS)
    table = (engine_root() / "kernels" / "table.h").read_text(encoding="utf-8")
    fields = re.search(r"struct KernelTable \{(.*?)\};", table, re.DOTALL)
    assert fields is not None
    names = re.findall(r"^  (?:[A-Z]\w+ (?=\w+[;[])|\w+ \(\*)(\w+)", fields[1], re.MULTILINE)
    kinds = ("attention_f16", "attention_int8")  # one field has those of all three kinds of cache
    assert names == [name for name in driver.OPERATIONS if name not in kinds]


@pytest.mark.parametrize(("arch", "table"), ALL_TABLES)
def test_golden_cases_every_table_gives_the_expected_bytes(
    arch: str, table: str, golden: list[Case]
) -> None:
    """An implementation, `ref` first, would differ from docs/numerics.md."""
    path = driver.build(arch)
    if not driver.available_tables(path, arch)[table]:
        assert arch == host_arch(), "an emulated processor has every table"
        return
    for case, outputs in zip(golden, driver.evaluate(path, arch, table, golden), strict=True):
        assert len(outputs) == len(case.expected)
        for found, expected in zip(outputs, case.expected, strict=True):
            message = f"{case.operation} {table} {case.size}"
            assert found == np.ascontiguousarray(expected).tobytes(), message


# --- binary16, all of it -------------------------------------------------------------------------


def _runnable_tables() -> list[tuple[str, str]]:
    return [
        (arch, table)
        for arch, table in ALL_TABLES
        if driver.available_tables(driver.build(arch), arch)[table]
    ]


def test_store_f16_every_half_and_every_tie_rounds_like_numpy() -> None:
    """A cached value would be off by one unit in the last place somewhere, or a NaN be lost."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(F)
    ties = (halves[:-1] + halves[1:]) / F(2)
    # Between the largest and what would be the next one; half the smallest; and both neighbours.
    ties = np.concatenate([ties, F([65520.0])])
    beside = [np.nextafter(ties, F(0)), np.nextafter(ties, F(np.inf))]
    # What follows a tie bit by bit, for a conversion that looks at too few bits.
    far = F([65536.0, 1e30, np.finfo(F).max, np.inf, 2.0**-25, 2.0**-26, 1e-40, 0.0, np.nan])
    x = np.concatenate([halves, ties, *beside, far, np.random.default_rng(3).normal(0, 9, 4096)])
    x = np.concatenate([x, -x]).astype(F)
    x = np.concatenate([x, np.zeros(-len(x) % 16, F)])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    for arch, table in _runnable_tables():
        case = Case("store_f16", [len(x)], [x])
        [[found]] = driver.evaluate(driver.build(arch), arch, table, [case])
        values = np.frombuffer(found, np.float16)
        number = ~np.isnan(x)
        assert (values.view(np.uint16) == expected.view(np.uint16))[number].all(), table
        assert np.isnan(values[~number]).all()


def test_attention_f16_every_half_is_widened_like_numpy() -> None:
    """A stored value would mean another number when it is read. One position has weight 1."""
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    expected = halves.view(np.float16).astype(F)
    zeros = np.zeros(16 << 16, np.uint16)
    values = oracle.value_blocks(halves[None], 0)
    size = [1, 1 << 16, 1, 1, 1 << 16, 16]
    case = Case("attention_f16", size, [np.zeros(1 << 16, F), zeros, values], 1.0)
    for arch, table in _runnable_tables():
        [[_, out]] = driver.evaluate(driver.build(arch), arch, table, [case])
        values = np.frombuffer(out, F)
        number = ~np.isnan(expected)
        assert (values == expected)[number].all(), table
        assert np.isnan(values[~number]).all()


def test_attention_int8_row_not_finite_gives_nan_everywhere() -> None:
    """An overflow in a key or a value would be answered as if it were a number."""
    dim, count = 48, 3
    rng = np.random.default_rng(5)
    q, good = rng.normal(size=dim).astype(F), rng.normal(size=dim).astype(F)
    for bad_value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[7] = bad_value
        for arch, table in _runnable_tables():
            path = driver.build(arch)
            stores = [Case("store_int8", [dim], [row]) for row in (good, bad)]
            stored = driver.evaluate(path, arch, table, stores)
            fine, broken = (
                (np.frombuffer(codes, np.int8), np.frombuffer(scale, F)) for codes, scale in stored
            )
            for at in range(count):
                rows = [fine] * count
                rows[at] = broken
                bad_rows = np.stack([each for each, _ in rows])
                bad_scales = np.zeros(16, F)
                bad_scales[:count] = np.concatenate([each for _, each in rows])
                fine_rows = np.tile(fine[0], (count, 1))
                fine_scales = np.full(16, fine[1], F)
                for keys, key_scales, values, value_scales in (
                    (bad_rows, bad_scales, fine_rows, fine_scales),
                    (fine_rows, fine_scales, bad_rows, bad_scales),
                ):
                    arranged = oracle.key_codes(keys, 0), oracle.value_codes(values, 0)
                    inputs = [q, arranged[0], key_scales, arranged[1], value_scales]
                    case = Case("attention_int8", [count, dim, 1, 1, dim, 16], inputs, 0.125)
                    [[_, out]] = driver.evaluate(path, arch, table, [case])
                    assert np.isnan(np.frombuffer(out, F)).all(), (table, at, bad_value)


@pytest.mark.parametrize("sign", [1, -1])
def test_attention_int8_largest_sums_of_the_widest_head_do_not_wrap(sign: int) -> None:
    """A score of 16256 * 127 * 1024 would change its sign: the nearest to 2^31 that there is."""
    dim, count = 1024, 130
    q = np.full((1, dim), sign, F)
    keys = np.full((count, dim), 127, np.int8)
    keys[::2] = -127
    values = np.abs(keys)
    scales = np.full(144, 1e-3, F)
    arranged = oracle.key_codes(keys, 0), oracle.value_codes(values, 0)
    inputs = [q, arranged[0], scales, arranged[1], scales]
    case = Case("attention_int8", [count, dim, 1, 1, dim, 144], inputs, 0.03125)
    parts = [(part, scales[:count]) for part in (keys, values)]
    weights, expected = oracle.attention_int8(q[0], *parts, 0.03125)
    assert weights.min() < 0.1 and weights.max() == 1 and (expected > 0).all()
    for arch, table in _runnable_tables():
        [[found, out]] = driver.evaluate(driver.build(arch), arch, table, [case])
        assert (np.frombuffer(found, F)[:count] == weights).all(), table
        assert (np.frombuffer(out, F) == expected).all(), table


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_attention_int8_later_position_not_finite_leaves_earlier_tokens_alone(bad: float) -> None:
    """A token's result would depend on the tokens that share its block of weights."""
    rng = np.random.default_rng(8)
    tokens, count, dim = 3, 126, 32
    q = rng.normal(size=(tokens, dim)).astype(F)
    codes = rng.integers(-127, 128, (2, count + 2, dim)).astype(np.int8)
    scales = np.full((2, 128), 0.01, F)
    scales[:, count + 1] = bad  # the last token alone sees it
    arranged = oracle.key_codes(codes[0], 0), oracle.value_codes(codes[1], 0)
    inputs = [q, arranged[0], scales[0], arranged[1], scales[1]]
    case = Case("attention_int8", [count, dim, 1, tokens, dim, 144], inputs, 0.125)
    for arch, table in _runnable_tables():
        [[_, out]] = driver.evaluate(driver.build(arch), arch, table, [case])
        rows = np.frombuffer(out, F).reshape(tokens, dim)
        assert np.isnan(rows[2]).all(), table
        for token in range(2):
            seen = [(part[: count + token], scales[i][: count + token])
                    for i, part in enumerate(codes)]  # fmt: skip
            _, expected = oracle.attention_int8(q[token], *seen, 0.125)
            assert (rows[token] == expected).all(), (table, token)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_attention_later_position_not_finite_leaves_earlier_tokens_alone(
    bad: float, heads: int
) -> None:
    """A token's result would depend on the tokens that share its block: on the prefill chunk."""
    rng = np.random.default_rng(6)
    tokens, count, dim = 3, 15, 32
    last = count + tokens - 1
    q = rng.normal(size=(tokens, heads * dim)).astype(F)
    k, v = (rng.normal(size=(last, dim)).astype(F) for _ in range(2))
    k[count + 1] = v[count + 1] = bad  # the last token alone sees it
    for kind in (F, np.float16):
        kept = [k.astype(kind), v.astype(kind)]
        size = [count, dim, heads, tokens, heads * dim, 32]
        inputs = [q, oracle.key_blocks(kept[0], bad), oracle.value_blocks(kept[1], bad)]
        name = "attention" if kind is F else "attention_f16"
        for arch, table in _runnable_tables():
            case = Case(name, size, inputs, 0.125)
            [[_, out]] = driver.evaluate(driver.build(arch), arch, table, [case])
            rows = np.frombuffer(out, F).reshape(tokens, heads, dim)
            assert not np.isfinite(rows[2]).any(), (table, name)
            for token, head in np.ndindex(2, heads):
                query = q[token, head * dim : (head + 1) * dim]
                seen = [each[: count + token].astype(F) for each in kept]
                _, expected = oracle.attention(query, *seen, 0.125)
                assert (rows[token, head] == expected).all(), (table, name, token, head)


# --- accuracy ------------------------------------------------------------------------------------


def ulp_errors(found: Array, exact: Array) -> Array:
    """|found - exact| in units of the last place of the float32 nearest to `exact`."""
    spacing = np.spacing(np.abs(exact).astype(F)).astype(np.float64)
    return np.abs(found.astype(np.float64) - exact) / spacing


def test_exp_whole_range_within_stated_error() -> None:
    """The polynomial of docs/numerics.md would not be an exponential function."""
    x = np.linspace(-86, 88, 1 << 18).astype(F)
    case = Case("exp_sum", [len(x), len(x), 0], [x], 0.0)
    [[e, _]] = driver.evaluate(driver.build(host_arch()), host_arch(), "ref", [case])
    errors = ulp_errors(np.frombuffer(e, F), np.exp(x.astype(np.float64)))
    assert errors.max() < 1.1


def test_exp_outside_range_saturates() -> None:
    """Softmax of a far smaller score would not be zero, or silu of a large one not finite."""
    x = np.array([-86.00001, -1e30, -np.inf, 88.0, 89.0, 1e30, np.inf, -0.0] * 2, F)
    case = Case("exp_sum", [16, 16, 0], [x], 0.0)
    for table in driver.TABLES[host_arch()]:
        if driver.available_tables(driver.build(host_arch()), host_arch())[table]:
            [[e, _]] = driver.evaluate(driver.build(host_arch()), host_arch(), table, [case])
            values = np.frombuffer(e, F)
            assert values[:3].tolist() == [0, 0, 0]
            assert np.isfinite(values).all()
            assert values[3] == values[4] == values[5] == values[6]
            assert values[7] == 1


@pytest.mark.parametrize("position", [1, 17, 4095, 131071, (1 << 20) - 1])
def test_rope_angles_within_half_an_ulp(position: int) -> None:
    """Sines and cosines would be wrong for late positions, where the angle spans many turns."""
    rng = np.random.default_rng(position)
    inv_freq = np.exp(rng.uniform(np.log(1e-7), 0, 1 << 15)).astype(F)
    case = Case("rope_angles", [position, len(inv_freq)], [inv_freq])
    [[sin, cos]] = driver.evaluate(driver.build(host_arch()), host_arch(), "ref", [case])
    angle = (F(position) * inv_freq).astype(np.float64)
    assert ulp_errors(np.frombuffer(sin, F), np.sin(angle)).max() < 0.501
    assert ulp_errors(np.frombuffer(cos, F), np.cos(angle)).max() < 0.501
