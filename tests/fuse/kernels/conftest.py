"""Triton decides when it is imported whether it compiles or interprets: one process, one of them.

A run without TRITON_INTERPRET=1 has the tests that compile, and starts those of the fused kernels
in an interpreting process of its own (test_in_interpreter.py); a run with it has those alone.
Where there is a GPU, a run without it has them too, compiled.
"""

import os

import torch

COMPILED = ["test_bench_gpu.py", "test_compile.py", "test_gpu.py", "test_in_interpreter.py"]

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore = COMPILED
elif not torch.cuda.is_available():
    collect_ignore = ["test_fused.py"]
