#!/bin/sh
# Creates a virtual environment from a lock file; does nothing if it is up to date.
#   sh scripts/environment.sh DIRECTORY LOCK
set -eu

place=$1 lock=$2

# The copy of the lock is written last: an incomplete environment has none and is created again.
if [ "$(cat "$lock")" = "$(cat "$place/installed.lock" 2>/dev/null)" ] && "$place/bin/python" -c 'import numpy' 2>/dev/null; then
    exit 0
fi
python=$(sh "$(dirname "$0")/preflight.sh" "$place")

echo "== $place: $("$python" --version), the packages of $lock =="
rm -rf "$place"
"$python" -m venv "$place"
install() {
    "$place/bin/python" -m pip install --disable-pip-version-check --no-input "$@" || {
        echo "error: $place is not complete: pip could not install $lock (see its message above)." >&2
        echo "    pip needs a network, or a configured package mirror. Then run the same command again." >&2
        exit 1
    }
}
# PyTorch is installed first, or another package could pull in a newer one; TORCH_INDEX chooses its build.
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$lock")
if [ -n "$torch" ]; then
    install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
fi
install -r "$lock"
cp "$lock" "$place/installed.lock.part"
mv "$place/installed.lock.part" "$place/installed.lock"
