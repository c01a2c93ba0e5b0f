#!/bin/sh
# Collects the wheels that a device installs without a network: edge-siamese, an inference runtime, gpiod, msgspec, and
# the packages for dashboard, MQTT and metrics.
set -eu

usage() {
    cat <<'TEXT'
usage: sh scripts/wheels.sh DIRECTORY [options]

Fills DIRECTORY with wheels for systemd/install.sh --wheels DIRECTORY. Run it in a checkout, with a network.

  --arch ARCH       arm64 or amd64 (default: this machine's)
  --python VERSION  Python of the device: 3.11 (Raspberry Pi OS Bookworm), 3.13 (Trixie); may be repeated (default: both)
  --runtime NAME    auto, ai-edge-litert, tflite-runtime or onnxruntime; may be repeated
                    (default: auto: tflite-runtime for Python 3.11, else ai-edge-litert)
  --with NAME       also this package of requirements/device.lock, such as numpy; may be repeated
  --help            this text

PYTHON names the interpreter whose pip is used (default: .venv/bin/python if it exists, else python3).
TEXT
}

root=$(cd "$(dirname "$0")/.." && pwd)
out='' arch='' pythons='' runtimes='' also=''
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --arch | --python | --runtime | --with)
            [ $# -ge 2 ] || die "$1 needs a value (--help shows the options)" 2
            case $1 in
                --arch) arch=$2 ;;
                --python) pythons="$pythons $2" ;;
                --runtime) runtimes="$runtimes $2" ;;
                --with) also="$also $2" ;;
            esac
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        -*) die "unknown option $1 (--help shows the options)" 2 ;;
        *) [ -z "$out" ] || die "only one directory is allowed, not $out and $1" 2; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { usage >&2; exit 2; }
case ${arch:-$(uname -m)} in
    arm64 | aarch64) machine=aarch64 ;;
    amd64 | x86_64) machine=x86_64 ;;
    *) die "there are no runtime wheels for ${arch:-$(uname -m)}, only for arm64 and amd64" 2 ;;
esac

python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import pip' 2>/dev/null || die "$python has no pip: make setup, or sudo apt install python3-pip"
mkdir -p "$out"
list=$(mktemp)
trap 'rm -f "$list"' EXIT
trap 'exit 130' INT TERM HUP
download() { # download VERSION PACKAGE... [-- PIP OPTION...]: the wheels in the lock, checked by their hashes
    version=$1 names=''
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do names="$names $1"; shift; done
    [ $# -eq 0 ] || shift
    # shellcheck disable=SC2086  # several words
    "$python" "$root/scripts/locked.py" "$version" $names >"$list" || exit 1
    # --no-deps: numpy comes from apt; the other dependencies are for tools that a device does not use.
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --dest "$out" "$@" --requirement "$list" ||
        die "pip could not fetch$names for Python $version on $machine (see its message above)"
}

rm -f "$out"/edge_siamese-*.whl
isolated=--no-build-isolation
"$python" -c 'import hatchling' 2>/dev/null || isolated='' # pip downloads hatchling
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps $isolated --wheel-dir "$out" "$root"

# Pure Python: one wheel for all versions and architectures.
# shellcheck disable=SC2046  # several words
download 3.11 $(sed -n "s/^EXTRAS='\(.*\)'/\1/p" "$root/systemd/install.sh")

required=$(sed -n "s/^REQUIRED='\(.*\)'/\1/p" "$root/systemd/install.sh")

# Debian 12 has glibc 2.36; newer systems accept wheels built for older ones.
platforms=''
minor=17
while [ "$minor" -le 36 ]; do
    platforms="$platforms --platform manylinux_2_${minor}_$machine"
    minor=$((minor + 1))
done
for version in ${pythons:-3.11 3.13}; do
    for runtime in ${runtimes:-auto}; do
        if [ "$runtime" = auto ]; then
            [ "$version" = 3.11 ] && runtime=tflite-runtime || runtime=ai-edge-litert
        fi
        # shellcheck disable=SC2086  # several words
        download "$version" "$runtime" $required $also -- --implementation cp --python-version "$version" $platforms \
            --platform "manylinux2014_$machine"
    done
done
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1)"
