#!/bin/sh
# Builds the Debian package: the service and its wheels for both Python versions, so that it installs without a network.
set -eu
umask 022

usage() {
    cat <<'TEXT'
usage: sh scripts/deb.sh [options]

Builds dist/edge-siamese_VERSION_ARCH.deb for Debian 12 and 13 and Raspberry Pi OS Bookworm and Trixie. The build is
reproducible: the same checkout and packages give the same bytes.

  --arch ARCH    arm64 or amd64 (default: this machine's)
  --out DIR      output directory (default: dist)
  --wheels DIR   use wheels collected by scripts/wheels.sh, without a network
  --help         this text
TEXT
}

root=$(cd "$(dirname "$0")/.." && pwd)
arch='' out=$root/dist wheels=''
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --arch | --out | --wheels)
            [ $# -ge 2 ] || die "$1 needs a value (--help shows the options)" 2
            case $1 in
                --arch) arch=$2 ;;
                --out) out=$2 ;;
                --wheels) wheels=$2 ;;
            esac
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        *) die "unknown option $1 (--help shows the options)" 2 ;;
    esac
    shift
done
command -v dpkg-deb >/dev/null || die 'dpkg-deb is missing: sudo apt install dpkg (or build on Debian)'
arch=${arch:-$(dpkg --print-architecture)}
case $arch in
    arm64 | amd64) ;;
    *) die "--arch: $arch is neither arm64 nor amd64" 2 ;;
esac

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/CHANGELOG.md")
fi
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
tree=$work/tree
share=$tree/usr/share/edge-siamese
put() { install -D -m "${3:-644}" "$root/$1" "$tree/$2"; }

mkdir -p "$share/wheels"
if [ -n "$wheels" ]; then
    cp "$wheels"/*.whl "$share/wheels/"
else
    sh "$root/scripts/wheels.sh" "$share/wheels" --arch "$arch" >/dev/null
fi
set -- "$share"/wheels/edge_siamese-*.whl
if [ $# -ne 1 ] || [ ! -f "$1" ]; then die "one wheel of edge-siamese is needed, not: $*"; fi
version=${1##*/edge_siamese-}
version=${version%%-*}
# Debian's way to say that 0.3.dev1 and 0.3rc1 come before 0.3.
version=$(echo "$version" | sed 's/\.\{0,1\}\(dev\|rc\|a\|b\)\([0-9]*\)$/~\1\2/')

put systemd/edge-siamese.service usr/lib/systemd/system/edge-siamese.service
put systemd/sysusers.conf usr/lib/sysusers.d/edge-siamese.conf
put systemd/tmpfiles.conf usr/lib/tmpfiles.d/edge-siamese.conf
put systemd/99-edge-siamese.rules usr/lib/udev/rules.d/99-edge-siamese.rules
for name in install.sh config.toml memory-512mb.conf; do
    put "systemd/$name" "usr/share/edge-siamese/$name"
done
(cd "$root" && find firmware_configs -type f) | sort | while read -r path; do
    put "$path" "usr/share/edge-siamese/$path"
done
completions=edge_siamese/cli/completions
put $completions/edge-siamese.bash usr/share/bash-completion/completions/edge-siamese
put $completions/_edge-siamese usr/share/zsh/vendor-completions/_edge-siamese
put $completions/edge-siamese.fish usr/share/fish/vendor_completions.d/edge-siamese.fish
mkdir -p "$tree/usr/share/man/man1"
gzip -9n <"$root/docs/edge-siamese.1" >"$tree/usr/share/man/man1/edge-siamese.1.gz"
chmod 644 "$tree/usr/share/man/man1/edge-siamese.1.gz"
put docs/installing.md usr/share/doc/edge-siamese/installing.md
put CHANGELOG.md usr/share/doc/edge-siamese/changelog
put LICENSE usr/share/doc/edge-siamese/copyright
mkdir -p "$tree/usr/bin"
ln -s /opt/edge-siamese/current/bin/edge-siamese "$tree/usr/bin/edge-siamese"

for name in preinst postinst prerm postrm; do
    put "systemd/debian/$name" "DEBIAN/$name" 755
done
# As dpkg-gencontrol counts, since what du says depends on the file system.
size=$(find "$tree/usr" -printf '%y %s\n' | awk '{ total += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print total }')
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" "$root/systemd/debian/control" >"$tree/DEBIAN/control"
(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

find "$tree" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
# The wheels are compressed already.
dpkg-deb --root-owner-group -Zgzip -z6 --build "$tree" "$work/package.deb" >/dev/null
mv "$work/package.deb" "$out/edge-siamese_${version}_$arch.deb"
echo "$out/edge-siamese_${version}_$arch.deb"
