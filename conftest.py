"""What pytest leaves alone: the example package, and Triton's modules where there is no Triton."""

import importlib.util

collect_ignore_glob = ["tests/plugin/*"]  # installed by tests/test_plugins.py, one of it broken
if importlib.util.find_spec("triton") is None:
    collect_ignore = [f"tokenreel/fuse/kernels/triton/{name}.py" for name in ("launch", "kernel")]
