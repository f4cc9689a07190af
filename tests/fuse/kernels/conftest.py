"""Triton decides when it is imported whether it compiles or interprets: one process, one of them.

A run without TRITON_INTERPRET=1 has the tests that compile, and starts those of the interpreter in
a process of its own (test_in_interpreter.py); a run with it has those of the interpreter alone.
"""

import os

INTERPRETED = ["test_interpreter.py"]
COMPILED = ["test_compile.py", "test_in_interpreter.py", "test_gpu.py"]

collect_ignore = COMPILED if os.environ.get("TRITON_INTERPRET") == "1" else INTERPRETED
