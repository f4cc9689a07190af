"""The fused kernels compile for GPUs that are not here: what the interpreter cannot see.

PTX that ptxas refuses, types, shared memory beyond the GPU's and spilled registers all show here.
"""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles nothing in the interpreter", allow_module_level=True)

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tokenreel.fuse.kernels.triton import kernel as kernels  # noqa: E402
from tokenreel.fuse.kernels.triton.launch import GROUP  # noqa: E402
from tokenreel.fuse.kernels.triton.tuned import Sizes, default_sizes  # noqa: E402

KERNELS = {"forward": kernels.pool_kernel, "backward": kernels.pool_backward_kernel}
FLOAT = {"int8": "i8", "float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
SHARED_BYTES = {80: 166912, 89: 101376, 90: 232448, 120: 101376}  # of a program, by architecture


def compile_case(
    direction, dtype, layers, width, capability, *, hides=False, sizes=None, tokens=16
):
    """Compile with the default sizes, or those given; the compiled kernel.

    Like the launcher it takes `tokens` for a constant where it is 1, and for aligned by 16.
    """
    sizes = sizes or default_sizes(dtype, layers, width)
    kernel, is_int8 = KERNELS[direction], dtype == "int8"
    constants = {
        "L": layers,
        "D": width,
        "BD": sizes.channels,
        "ND": -(-width // sizes.channels),
        "BN": sizes.tokens,
        "BE": GROUP,
        "SPLIT": dtype != "float32",
        "I8": is_int8,
        "HIDES": hides,
        "HOLD": sizes.hold,
        "WHOLE": True,
        "INTERPRET": False,
        "num_groups": 1,
        "DT": {"bfloat16": tl.bfloat16, "float32": tl.float32}.get(dtype, tl.float16),
        "PRECISION": "ieee" if dtype == "float32" else "tf32",
    } | ({"num_tokens": 1} if tokens == 1 else {})
    codes = "*" + FLOAT[dtype]
    types = {f"x{i}": codes for i in range(4)} | {"digits": codes}
    types |= {f"fs{i}": "i64" for i in range(4)}
    types |= {f"s{i}": "*fp32" if is_int8 else codes for i in range(4)}
    types |= {"peaks": types["s0"], "hidden": "*i8", "low_weight": "fp32"}
    floats = ("worth", "out", "extremes", "scores", "lse", "delta")
    types |= dict.fromkeys(floats, "*fp32")
    aligned = ("num_tokens", "fs0", "fs1", "fs2", "fs3") if tokens % 16 == 0 else ()
    return compile_kernel(
        kernel,
        constants,
        types,
        capability,
        aligned,
        {
            "num_warps": sizes.warps,
            "num_stages": sizes.stages,
        },
    )


def compile_kernel(kernel, constants, types, capability, aligned, options):
    """Compile for an architecture; arguments without a type are 32-bit integers."""
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name].startswith("*") or name in aligned
        },
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": True, **options})


def spills(compiled, folder):
    """Bytes of stack a thread uses, and the share of instructions that go there."""
    path = folder / "kernel.cubin"
    path.write_bytes(compiled.asm["cubin"])
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    usage = run_tool(tools / "cuobjdump", "-res-usage", path)
    code = re.findall(r"\*/ +(?:@!?\w+ +)?([A-Z]\w+)", run_tool(tools / "nvdisasm", "-c", path))
    local = sum(word in ("LDL", "STL") for word in code)
    return int(re.search(r"STACK:(\d+)", usage)[1]), local / len(code)


def run_tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("direction", "dtype", "capability"),
    [
        ("forward", "int8", 90),
        ("backward", "int8", 80),
        ("forward", "bfloat16", 89),
        ("backward", "float16", 120),
    ],
)
def test_a_kernel_compiles_and_fits_the_shared_memory(direction, dtype, capability):
    compiled = compile_case(direction, dtype, 1, 384, capability, hides=direction == "forward")
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    assert ("0x64646464" in compiled.asm["ptx"]) == (dtype == "int8")


def permute_bytes(first, second, selector):
    """PTX prmt.b32: byte i of the result is byte (nibble i of the selector) of both words."""
    both = first.to_bytes(4, "little") + second.to_bytes(4, "little")
    return int.from_bytes(bytes(both[selector >> 4 * i & 7] for i in range(4)), "little")


def halves(word):
    return np.frombuffer(word.to_bytes(4, "little"), np.float16)


def run_assembly(text, codes):
    """Four float16 of four int8, by the instructions of the PTX that was compiled."""
    registers = {}

    def value(name):
        return registers[name] if name in registers else int(name, 16)

    for line in text.split(";"):
        word, *operands = line.replace(",", " ").split()
        target, *rest = operands or [""]
        if word == "mov.b32":
            registers[target] = value(rest[0])
        elif word == "xor.b32":
            code = int.from_bytes(codes.tobytes(), "little")  # the one operand nobody has set
            registers[target] = code ^ value(rest[1])
        elif word == "prmt.b32":
            registers[target] = permute_bytes(*map(value, rest))
        elif word == "sub.rn.f16x2":
            difference = halves(value(rest[0])) - halves(value(rest[1]))
            registers[target] = int.from_bytes(difference.tobytes(), "little")
            registers["out"] = [*registers.get("out", []), *difference]
    return registers["out"]


def test_codes_are_widened_exactly_by_the_instructions_that_are_compiled():
    """The interpreter takes another way: this is the only check of the assembly without a GPU."""
    ptx = compile_case("forward", "int8", 1, 384, 90).asm["ptx"]
    block = re.search(r"\{ \.reg \.b32 t, c; (.*?) \}", ptx)[1]
    codes = np.arange(-128, 128).astype(np.int8)
    found = [x for four in codes.reshape(-1, 4) for x in run_assembly(block.rstrip("; "), four)]
    assert np.array_equal(np.array(found), codes.astype(np.float16))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_the_kernel_of_digits_compiles(tmp_path, dtype):
    constants = {
        "L": 3,
        "D": 768,
        "BLOCK": 1024,
        "SPLIT": dtype != "float32",
        "I8": dtype == "int8",
        "DOTS": True,
    }
    types = dict.fromkeys(("rows", "pooled", "worth", "dots"), "*fp32")
    types["digits"] = "*" + FLOAT[dtype]
    compiled = compile_kernel(kernels.split_kernel, constants, types, 90, (), {"num_warps": 4})
    assert spills(compiled, tmp_path) == (0, 0.0)


@pytest.mark.parametrize("direction", list(KERNELS))
def test_a_tile_that_is_held_is_in_shared_memory_and_loaded_once(direction):
    """The compiler pipelines its loads over tiles; another that did not would keep it nowhere."""
    sizes = Sizes(tokens=64, channels=128, warps=4, stages=2, hold=True)
    compiled = compile_case(direction, "int8", 1, 768, 90, sizes=sizes)
    assert 64 * 768 < compiled.metadata.shared <= SHARED_BYTES[90]
    copied = re.findall(r"cp\.async\.\w+\.shared\.global\S* +\[", compiled.asm["ptx"])
    assert copied
    assert not re.findall(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"])


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(KERNELS))
@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize(("width", "tokens"), [(40, 16), (33, 37), (384, 1), (1024, 785)])
def test_sizes_that_divide_nothing_compile(tmp_path, direction, dtype, width, tokens):
    compiled = compile_case(direction, dtype, 2, width, 90, hides=True, tokens=tokens)
    assert compiled.metadata.shared <= SHARED_BYTES[90]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90, 120])
@pytest.mark.parametrize("dtype", list(FLOAT))
@pytest.mark.parametrize("direction", list(KERNELS))
@pytest.mark.parametrize(("layers", "width"), [(1, 768), (3, 768), (1, 400)])
def test_every_kernel_compiles_and_does_not_spill(
    tmp_path, direction, dtype, layers, width, capability
):
    compiled = compile_case(direction, dtype, layers, width, capability)
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    stack_bytes, share = spills(compiled, tmp_path)
    if capability == 120 or triton.__version__ < "3.7":
        # Their ptxas keeps up to 12 words there that are the same for every tile, and reads them
        # back once a tile of 16 tokens or more, beside some thousand instructions.
        assert stack_bytes <= 48
        assert share < 0.01
    elif dtype == "float32" and layers == 3:
        # Products without a matrix unit keep both operands in registers, beside the sums.
        assert stack_bytes <= 96
    else:
        assert stack_bytes == 0
