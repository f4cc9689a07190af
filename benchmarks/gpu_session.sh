#!/usr/bin/env bash
# Everything that waits for a GPU, within a quarter of an hour on one card.
#
#     benchmarks/gpu_session.sh OUT [PART ...]     parts: tests kernels online extract (all)
#
# Each part has a limit of seconds, below; what it has measured by then is kept.  Rows, tuned sizes
# and the profile are copied to OUT after each part.  Where a command may take ten minutes at most,
# run `tests kernels` first, then `online extract`.  Packages are those of `make setup`; PYTHON
# names the interpreter, .venv/bin/python when left out, else python3.  Where the tree was copied
# without git, TOKENREEL_BENCHMARK_COMMIT names its commit (git rev-parse --short=12 HEAD).  Status 2
# and one line without a GPU, 1 where a part failed or ran out of time.  Then copy OUT's files into
# benchmarks/results (tuned.json beside tokenreel/fuse/kernels/triton/tuned.py), run
# `python benchmarks/tables.py` and commit.
set -uo pipefail
cd "$(dirname "$0")/.."

declare -A LIMIT=([tests]=90 [kernels]=400 [online]=90 [extract]=180)

if [ $# -eq 0 ]; then
    echo "gpu_session: name a folder for the rows: benchmarks/gpu_session.sh OUT [PART ...]" >&2
    exit 2
fi
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null; then
    echo "gpu_session: no NVIDIA GPU here; run it where \`nvidia-smi\` shows one" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
[ $# -gt 0 ] || set -- tests kernels online extract

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || command -v "$python" >/dev/null || python=python3
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c "import torch, triton, timm, zarr, h5py, av, pydantic, typer, pytest"; then
    echo "gpu_session: packages are missing for $python: see the line above" >&2
    exit 2
fi

command_of() {
    case $1 in
        tests) echo "-m pytest -q -m gpu" ;;
        kernels) echo "benchmarks/kernels_gpu.py --compile-seconds 60 --out $out" ;;
        online) echo "benchmarks/fuse_online_gpu.py" ;;
        extract) echo "benchmarks/extract_gpu.py --out $out" ;;
        *) return 1 ;;
    esac
}

status=0
summary=""
for part in "$@"; do
    if ! words=$(command_of "$part"); then
        echo "gpu_session: no part $part; the parts are tests, kernels, online, extract" >&2
        exit 2
    fi
    start=$SECONDS
    echo "== $part: at most ${LIMIT[$part]} s"
    # shellcheck disable=SC2086
    timeout --kill-after=10 "${LIMIT[$part]}" "$python" $words 2>&1 | tee "$out/$part.log"
    code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || status=1
    summary+="$part: status $code after $((SECONDS - start)) s"$'\n'
    for file in benchmarks/results/*_gpu* benchmarks/results/{pooling,fusion}.csv \
        tokenreel/fuse/kernels/triton/tuned.json; do
        [ ! -e "$file" ] || cp "$file" "$out"
    done
done
printf '%s' "$summary"
exit $status
