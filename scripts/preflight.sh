#!/bin/sh
# Checks prerequisites of the environments and prints the Python to use.
#   sh scripts/preflight.sh DIRECTORY      (PYTHON=… chooses the interpreter, TORCH_INDEX=… the build of PyTorch)
set -u

place=$(dirname "${1:-.venv}")
needed_gb=5      # the workstation's packages, with PyTorch for CPU
with_cuda_gb=12  # the same with PyTorch for Nvidia GPUs
problems=0

problem() {
    problems=$((problems + 1))
    echo "missing: $1" >&2
    echo "    get it: $2" >&2
}

# The first interpreter that the locks cover and that has venv; 3.11 first, with which they were tested.
python='' unsuitable='' without_venv=''
for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
        unsuitable="$candidate is Python $version"
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        without_venv="$candidate (Python $version)"
    else
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    if [ -n "$without_venv" ]; then
        problem "the venv module of $without_venv" "sudo apt install python3-venv"
    elif [ -n "$unsuitable" ]; then
        problem "Python 3.11 to 3.13 ($unsuitable)" "sudo apt install python3.11 python3.11-venv, or name one: make demo PYTHON=/path/to/python3.11"
    else
        problem "Python 3.11 to 3.13 (no ${PYTHON:-python3} was found)" "sudo apt install python3 python3-venv, or name one: make demo PYTHON=/path/to/python3.11"
    fi
fi

machine=$(uname -m)
case $machine in
    x86_64 | amd64 | aarch64 | arm64) ;;
    *) problem "a 64-bit x86 or Arm processor (this one is $machine)" "PyTorch and LiteRT have no packages for $machine; train on another machine; a device needs only the wheel" ;;
esac

free_kb=$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { print $4 }')
free_kb=${free_kb:-0}
free_gb=$((free_kb / 1048576))
if [ "$free_kb" -lt $((needed_gb * 1048576)) ]; then
    problem "disk space: $needed_gb GB are needed in $(cd "$place" && pwd), $free_gb GB are free" \
        "free some, or move the checkout to a larger disk"
elif [ "$free_kb" -lt $((with_cuda_gb * 1048576)) ] && [ -z "${TORCH_INDEX:-}" ]; then
    echo "note: $free_gb GB are free. PyTorch with CUDA needs most of that; the CPU build does not:" >&2
    echo "    make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu" >&2
fi

[ "$problems" -eq 0 ] || exit 1
echo "$python"
