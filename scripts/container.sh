#!/bin/sh
# Builds the container image: collects the wheels of a device, then runs the Containerfile, which needs no network but for its base.
set -eu
umask 022

usage() {
    cat <<'TEXT'
usage: sh scripts/container.sh [options]

Builds the image localhost/edge-siamese:VERSION of this checkout. With Podman, its files are the same in each build if the
base is the same.

  --base IMAGE    image with Python 3.13; pin it by digest: docker.io/library/python@sha256:…
                  (default: docker.io/library/python:3.13-slim-trixie)
  --arch ARCH     arm64 or amd64 (default: this machine's)
  --tag NAME      name of the image (default: localhost/edge-siamese:VERSION)
  --wheels DIR    use wheels collected by scripts/wheels.sh for Python 3.13, with numpy, pillow and av
  --help          this text

ENGINE is the program that builds, with its own options (default: podman, else docker, whichever is installed).

examples:
  sh scripts/container.sh
  ENGINE='podman --runtime runc' sh scripts/container.sh --base docker.io/library/python@sha256:…
TEXT
}

root=$(cd "$(dirname "$0")/.." && pwd)
base='' arch='' tag='' wheels=''
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --base | --arch | --tag | --wheels)
            [ $# -ge 2 ] || die "$1 needs a value (--help shows the options)" 2
            case $1 in
                --base) base=$2 ;;
                --arch) arch=$2 ;;
                --tag) tag=$2 ;;
                --wheels) wheels=$2 ;;
            esac
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        *) die "unknown option $1 (--help shows the options)" 2 ;;
    esac
    shift
done
case ${arch:-$(uname -m)} in
    arm64 | aarch64) arch=arm64 ;;
    amd64 | x86_64) arch=amd64 ;;
    *) die "--arch: ${arch:-$(uname -m)} is neither arm64 nor amd64" 2 ;;
esac
if [ -z "${ENGINE:-}" ]; then
    for ENGINE in podman docker ''; do
        if command -v "${ENGINE:-none}" >/dev/null; then break; fi
    done
    [ -n "$ENGINE" ] || die 'no container engine was found: sudo apt install podman'
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/edge_siamese/__init__.py")
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null) || revision=unknown
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/CHANGELOG.md")
fi
export SOURCE_DATE_EPOCH
tag=${tag:-localhost/edge-siamese:$version}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
trap 'exit 130' INT TERM HUP
mkdir "$context/wheels"
if [ -n "$wheels" ]; then
    cp "$wheels"/*.whl "$context/wheels/"
else
    sh "$root/scripts/wheels.sh" "$context/wheels" --arch "$arch" --python 3.13 --with numpy --with pillow --with av >/dev/null
fi
find "$context" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

# Podman keeps the health check in the format of Docker only, can fix all times, and is faster with one layer.
case $ENGINE in
    *docker*) set -- ;;
    *) set -- --format docker --timestamp "$SOURCE_DATE_EPOCH" --layers=false ;;
esac
if [ -n "$base" ]; then set -- "$@" --build-arg "BASE=$base"; fi
# shellcheck disable=SC2086  # several words
$ENGINE build "$@" --network none --platform "linux/$arch" --file "$root/Containerfile" --tag "$tag" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)" "$context" >&2 ||
    die "$ENGINE could not build the image (see its message above)"
echo "$tag"
