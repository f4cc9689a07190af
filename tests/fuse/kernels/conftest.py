"""Triton decides when it is imported whether it compiles or interprets: one process, one of them.

A run without TRITON_INTERPRET=1 has the tests that compile, and starts those of the fused kernels
in an interpreting process of its own (test_in_interpreter.py); a run with it has those alone.
Where there is a GPU, a run without it has them too, compiled.
"""

import functools
import os

import torch


def patch_the_language_once():
    """Let Triton's interpreter patch its language once a kernel, not in each call that it makes.

    To look through the language for what is to be patched is a third of the interpreter's time, and
    in a function that a kernel calls it finds that all is patched.
    """
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):  # of a release that patches in another way
        return
    patch, patched = interpreter._patch_lang, set()

    @functools.cache
    def modules_of(function):
        names = function.__globals__.values()
        return frozenset(
            id(value) for value in names if value is language or value is language.core
        )

    class Scope(interpreter._LangPatchScope):
        def restore(self):
            super().restore()
            patched.clear()

    def patch_once(function):
        scope, modules = Scope(), modules_of(function)
        if not modules <= patched:
            patched.update(modules)
            scope._changes = patch(function)._changes
        return scope

    interpreter._patch_lang = patch_once


COMPILED = ["test_bench_gpu.py", "test_compile.py", "test_gpu.py", "test_in_interpreter.py"]

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore = COMPILED
    patch_the_language_once()
elif not torch.cuda.is_available():
    collect_ignore = ["test_fused.py"]
