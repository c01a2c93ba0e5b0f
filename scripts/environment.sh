#!/bin/sh
# Makes a virtual environment that holds what a lock says; does nothing if it is there already.
#   sh scripts/environment.sh DIRECTORY LOCK
set -eu

place=$1 lock=$2

# The lock's copy is written last, so an environment that was left half-made has none and is made anew.
if [ "$(cat "$lock")" = "$(cat "$place/installed.lock" 2>/dev/null)" ] && "$place/bin/python" -c 'import numpy' 2>/dev/null; then
    exit 0
fi
python=$(sh "$(dirname "$0")/preflight.sh" "$place")

echo "== $place: $("$python" --version), the packages of $lock =="
rm -rf "$place"
"$python" -m venv "$place"
install() {
    "$place/bin/python" -m pip install --disable-pip-version-check --no-input "$@" || {
        echo "error: $place is not complete: pip could not install $lock (its message is above)." >&2
        echo "    It needs a network, or a copy of the packages that pip is told of. Then run the same command again." >&2
        exit 1
    }
}
# PyTorch goes first and alone, or another package's range would pull in a newer one; TORCH_INDEX chooses its build.
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$lock")
if [ -n "$torch" ]; then
    install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
fi
install -r "$lock"
cp "$lock" "$place/installed.lock.part"
mv "$place/installed.lock.part" "$place/installed.lock"
