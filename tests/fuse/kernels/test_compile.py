"""The fused kernels compile for GPUs that are not here: what the interpreter cannot see.

PTX that ptxas refuses, types, shared memory beyond the GPU's and spilled registers all show here.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles nothing in the interpreter", allow_module_level=True)

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tokenreel.fuse.kernels import triton as kernels  # noqa: E402
from tokenreel.fuse.kernels.tuned import default_sizes  # noqa: E402

KERNELS = {"forward": kernels.pool_kernel, "backward": kernels.pool_backward_kernel}
FLOAT = {"int8": "i8", "float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
SHARED_BYTES = {80: 166912, 89: 101376, 90: 232448, 120: 101376}  # of a program, by architecture


def compile_case(direction, dtype, layers, width, capability, *, hides=False):
    """Compile with the default sizes; the compiled kernel."""
    sizes = default_sizes(dtype, layers, width)
    kernel, is_int8 = KERNELS[direction], dtype == "int8"
    constants = {
        "L": layers, "D": width, "BD": sizes.channels, "ND": -(-width // sizes.channels),
        "BN": sizes.tokens, "BE": 16 if dtype == "float32" else 8, "SPLIT": dtype != "float32",
        "I8": is_int8, "HIDES": hides, "ASM": is_int8, "WHOLE": True, "UP": False,
        "DT": {"bfloat16": tl.bfloat16, "float32": tl.float32}.get(dtype, tl.float16),
        "PRECISION": "ieee" if dtype == "float32" else "tf32",
    }  # fmt: skip
    codes = "*" + FLOAT[dtype]
    types = {f"x{i}": codes for i in range(4)}
    types |= {f"fs{i}": "i64" for i in range(4)}
    types |= {f"s{i}": "*fp32" if is_int8 else codes for i in range(4)}
    types |= dict.fromkeys(("q", "g"), codes) | {"hidden": "*i8", "low_weight": "fp32"}
    floats = ("unit", "q_scale", "g_scale", "out", "extremes", "scores", "lse", "delta")
    types |= dict.fromkeys(floats, "*fp32")
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    aligned = [
        i for i, name in enumerate(names)
        if signature[name].startswith("*") or name in ("num_tokens", "fs0", "fs1", "fs2", "fs3")
    ]  # fmt: skip
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": sizes.warps, "num_stages": sizes.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spilled_bytes(compiled, folder):
    """Bytes of stack a thread of the compiled kernel uses."""
    path = folder / "kernel.cubin"
    path.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    run = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", run.stdout)[1])


@pytest.mark.parametrize(
    ("direction", "dtype", "capability"),
    [("forward", "int8", 90), ("backward", "int8", 80), ("forward", "bfloat16", 89),
     ("backward", "float16", 120)],
)  # fmt: skip
def test_a_kernel_compiles_and_fits_the_shared_memory(direction, dtype, capability):
    compiled = compile_case(direction, dtype, 1, 384, capability, hides=direction == "forward")
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    assert ("0x64646464" in compiled.asm["ptx"]) == (dtype == "int8")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90, 120])
@pytest.mark.parametrize("dtype", list(FLOAT))
@pytest.mark.parametrize("direction", list(KERNELS))
@pytest.mark.parametrize(("layers", "width"), [(1, 768), (3, 768), (1, 400)])
def test_every_kernel_compiles_and_hardly_spills(
    tmp_path, direction, dtype, layers, width, capability
):
    compiled = compile_case(direction, dtype, layers, width, capability)
    assert compiled.metadata.shared <= SHARED_BYTES[capability]
    if dtype != "float32":  # exact products have no matrix unit: spills are the lesser evil
        # The sums of 2,304 channels are 144 of a thread's 255 registers; a tile is 576 codes of it.
        assert spilled_bytes(compiled, tmp_path) <= (128 if layers == 3 else 0)
