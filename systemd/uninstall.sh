#!/bin/sh
# Removes what install.sh installed; keeps objects and settings unless --purge is given.
set -eu

usage() {
    cat <<'TEXT'
usage: sudo sh uninstall.sh [options]

Stops the service edge-siamese and removes it and the program. /etc/edge-siamese (settings) and /var/lib/edge-siamese
(objects, models, events) are kept for a later installation.

  --purge       remove settings, objects and models too
  --prefix DIR  remove an installation of `install.sh --prefix DIR`
  --help        this text
TEXT
}

purge='' prefix=''
while [ $# -gt 0 ]; do
    case $1 in
        --purge) purge=yes ;;
        --prefix) [ $# -ge 2 ] || { echo 'error: --prefix needs a value' >&2; exit 2; }; prefix=$2; shift ;;
        --help | -h) usage; exit 0 ;;
        *) echo "error: unknown option $1 (--help shows the options)" >&2; exit 2 ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo 'error: root is required: sudo sh uninstall.sh' >&2
        exit 1
    fi
    if dpkg-query -W -f='${Status}' edge-siamese 2>/dev/null | grep -q ' installed$'; then
        echo 'error: edge-siamese is installed as a Debian package here: sudo apt remove (or purge) edge-siamese' >&2
        exit 1
    fi
    if [ -d /run/systemd/system ]; then systemctl --quiet stop edge-siamese.service || true; fi
    systemctl --quiet disable edge-siamese.service 2>/dev/null || true
fi

local=$prefix/usr/local
rm -rf "$prefix/opt/edge-siamese"
rm -f "$local/lib/systemd/system/edge-siamese.service" "$local/lib/sysusers.d/edge-siamese.conf" \
    "$local/lib/tmpfiles.d/edge-siamese.conf" "$local/lib/udev/rules.d/99-edge-siamese.rules" \
    "$local/share/bash-completion/completions/edge-siamese" "$local/share/zsh/site-functions/_edge-siamese" \
    "$local/share/fish/vendor_completions.d/edge-siamese.fish" "$local/share/man/man1/edge-siamese.1" \
    "$local/bin/edge-siamese"
if [ -n "$purge" ]; then
    rm -rf "$prefix/etc/edge-siamese" "$prefix/var/lib/edge-siamese" "$prefix/etc/systemd/system/edge-siamese.service.d"
fi
if [ -z "$prefix" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ -S /run/udev/control ]; then udevadm control --reload; fi
fi
if [ -n "$purge" ]; then
    echo 'edge-siamese is removed, with its settings and objects'
else
    echo 'edge-siamese is removed; /etc/edge-siamese and /var/lib/edge-siamese are kept (--purge removes them)'
fi
