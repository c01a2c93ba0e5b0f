#!/bin/sh
# Creates a virtual environment from a lock file; does nothing if it is up to date.
#   sh scripts/environment.sh DIRECTORY LOCK [--device]     (--device: without pip and what a device's code never loads)
set -eu

place=$1 lock=$2 option=${3:-}

# A lock leaves torch out: its builds for CPUs and for CUDA differ in their hashes. The .in file has its version.
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "${lock%.lock}.in" 2>/dev/null) || torch=''
wanted=$(cat "$lock" && echo "$torch")

# The record is written last: an incomplete environment has none and is created again.
if [ "$wanted" = "$(cat "$place/installed.lock" 2>/dev/null)" ] && "$place/bin/python" -c 'import numpy' 2>/dev/null; then
    exit 0
fi
python=$(sh "$(dirname "$0")/preflight.sh" "$place")

echo "== $place: $("$python" --version), the packages of $lock =="
rm -rf "$place"
"$python" -m venv "$place"
pip() {
    "$place/bin/python" -m pip --disable-pip-version-check --no-input "$@" || {
        echo "error: $place is not complete: pip could not install $lock (see its message above)." >&2
        echo "    pip needs a network, or a configured package mirror. Then run the same command again." >&2
        exit 1
    }
}
# The lock is complete, so pip resolves nothing. Python compiles what is imported, when it is imported.
pip install --no-compile --no-deps --require-hashes --requirement "$lock"
# torch comes last and finds its dependencies, except those of CUDA. TORCH_INDEX chooses its build.
if [ -n "$torch" ]; then
    pip install --no-compile --no-warn-conflicts ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
fi
# timm asks for torchvision, which its networks do not need: see export/encoders/timm_import.py.
problems=$("$place/bin/python" -m pip --disable-pip-version-check check | grep -v -e ' requires torchvision, which is not installed' \
    -e '^No broken requirements found') || true
if [ -n "$problems" ]; then
    echo "error: $place is not complete: $problems" >&2
    exit 1
fi
if [ "$option" = --device ]; then
    pip uninstall -qq --yes setuptools pip # 20 MB; newer Pythons bring no setuptools
    # 35 to 75 MB: the libraries for C programs and for WebGPU, compilers for accelerators, tools to make models, numpy's own tests.
    for packages in "$place"/lib/python3.*/site-packages; do
        rm -rf "$packages"/onnxruntime/capi/libonnxruntime.so.* "$packages"/onnxruntime/quantization \
            "$packages"/onnxruntime/tools "$packages"/onnxruntime/transformers \
            "$packages"/ai_edge_litert/libLiteRtWebGpuAccelerator.so "$packages"/ai_edge_litert/tools \
            "$packages"/ai_edge_litert/vendors
        find "$packages/numpy" -name tests -type d -prune -exec rm -rf {} +
    done
fi
echo "$wanted" >"$place/installed.lock.part"
mv "$place/installed.lock.part" "$place/installed.lock"
