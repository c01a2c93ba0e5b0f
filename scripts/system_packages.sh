#!/bin/sh
# Installs the packages for `make test-system`, as root on Debian or a derivative.
set -eu

# A Debian tree and its container; an arm64 tree and its processor; a machine with a GPIO chip and cameras; the deployment; a broker; Prometheus; a browser; a container engine.
packages='mmdebstrap systemd-container dpkg util-linux
    qemu-user-static arch-test
    qemu-system-x86 e2fsprogs gcc make cpio kmod
    openssh-server openssh-client rsync
    mosquitto prometheus
    chromium fonts-inter
    podman runc'

missing=''
for package in $packages; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "note: not installed:$missing; the tests that need them are skipped (as root on Debian, this script installs them)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true # an older list may suffice
# shellcheck disable=SC2086  # several names
apt-get install -qq --yes --no-install-recommends $missing >/dev/null
echo "installed:$missing"
