"""What pytest leaves alone: modules that need Triton, on machines that have none (macOS, ARM)."""

import importlib.util

if importlib.util.find_spec("triton") is None:
    collect_ignore = [f"tokenreel/fuse/kernels/triton/{name}.py" for name in ("launch", "tiles", "kernel")]
