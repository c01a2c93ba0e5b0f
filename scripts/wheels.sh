#!/bin/sh
# Collect the wheels that a device installs without a network: edge-siamese, an inference runtime, gpiod, msgspec, and the
# packages of dashboard, MQTT and metrics.
set -eu

usage() {
    cat <<'TEXT'
usage: sh scripts/wheels.sh DIRECTORY [options]

Fills DIRECTORY with the wheels that systemd/install.sh --wheels DIRECTORY takes. Run it in a checkout, with a network.

  --arch ARCH       arm64 or amd64 (default: this machine's)
  --python VERSION  of the device: 3.11 (Raspberry Pi OS Bookworm), 3.13 (Trixie); may be repeated (default: both)
  --runtime NAME    auto, ai-edge-litert, tflite-runtime or onnxruntime; may be repeated
                    (default: auto: tflite-runtime for Python 3.11, else ai-edge-litert)
  --help            this text

PYTHON names the interpreter whose pip is used (.venv/bin/python if it is there, else python3).
TEXT
}

root=$(cd "$(dirname "$0")/.." && pwd)
out='' arch='' pythons='' runtimes=''
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --arch | --python | --runtime)
            [ $# -ge 2 ] || die "$1 needs a value (--help shows the options)" 2
            case $1 in
                --arch) arch=$2 ;;
                --python) pythons="$pythons $2" ;;
                --runtime) runtimes="$runtimes $2" ;;
            esac
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        -*) die "unknown option $1 (--help shows the options)" 2 ;;
        *) [ -z "$out" ] || die "one directory is filled, not $out and $1" 2; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { usage >&2; exit 2; }
case ${arch:-$(uname -m)} in
    arm64 | aarch64) machine=aarch64 ;;
    amd64 | x86_64) machine=x86_64 ;;
    *) die "there are no wheels of the runtimes for ${arch:-$(uname -m)}: arm64 and amd64 have some" 2 ;;
esac

python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import pip' 2>/dev/null || die "$python has no pip: make setup, or sudo apt install python3-pip"
mkdir -p "$out"
# What was tested together is what a device gets.
pin() {
    # Where the two Pythons were tested with two versions, the first will do for both.
    found=$(sed -n "s/^\($1==[^; ]*\).*/\1/p" "$root/requirements/device.lock" | head -n 1)
    [ -n "$found" ] || die "requirements/device.lock has no $1"
    echo "$found"
}

rm -f "$out"/edge_siamese-*.whl
isolated=--no-build-isolation
"$python" -c 'import hatchling' 2>/dev/null || isolated='' # then pip fetches the builder
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps $isolated --wheel-dir "$out" "$root"

# Each of these is one wheel for every Python and processor.
extras=''
for name in $(sed -n "s/^EXTRAS='\(.*\)'/\1/p" "$root/systemd/install.sh"); do
    extras="$extras $(pin "$name")"
done
# shellcheck disable=SC2086  # several words
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$out" $extras ||
    die "pip could not fetch $extras (its message is above)"

required=''
for name in $(sed -n "s/^REQUIRED='\(.*\)'/\1/p" "$root/systemd/install.sh"); do
    required="$required $(pin "$name")"
done

# glibc of Debian 12 is 2.36; newer systems take what was built for older ones.
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
        # Without their dependencies: numpy comes from apt, the others are for tools that a device does not use.
        # shellcheck disable=SC2046,SC2086  # several words
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --implementation cp \
            --python-version "$version" $platforms --platform "manylinux2014_$machine" --dest "$out" \
            $(pin "$runtime") $required ||
            die "pip could not fetch $runtime and$required for Python $version on $machine (its message is above)"
    done
done
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1)"
