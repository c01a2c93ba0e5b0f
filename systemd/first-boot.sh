#!/bin/sh
# Installs edge-siamese from this folder on the boot partition when a Raspberry Pi starts for the first time.
# Each step can be repeated, so that a power cut costs one more start.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

usage() {
    cat <<'TEXT'
usage: sh BOOTFS/edge-siamese/first-boot.sh --enable

Adds kernel options to cmdline.txt of the boot partition, so that Raspberry Pi OS runs this script at the next start. Run
it on the workstation that wrote the card, after Raspberry Pi Imager. The device then installs the Debian package in this folder
without a network, and reports in first-boot.log.

  --enable     add the options to cmdline.txt; a second time changes nothing
  --install    install now (the service edge-siamese-first-boot runs this on the device)
  --help       this text

Without an option, it schedules the installation for the next start (cmdline.txt runs this on the device).

example:
  unzip -d /media/me/bootfs edge-siamese-first-boot_0.3.0_arm64.zip
  sh /media/me/bootfs/edge-siamese/first-boot.sh --enable

LEDS names a directory to use instead of /sys/class/leds.
TEXT
}

UNIT=edge-siamese-first-boot.service
OPTIONS='systemd.run_success_action=reboot systemd.unit=kernel-command-line.target'
LOCK_WAIT_TRIES=30

here=$(cd "$(dirname "$0")" && pwd)
folder=${here##*/} boot=${here%/*}
cmdline=$boot/cmdline.txt log=$here/first-boot.log
leds=${LEDS:-/sys/class/leds}
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

# FAT has no journal: the new file is complete before it replaces the old one.
write_cmdline() {
    printf '%s\n' "$1" >"$cmdline.new"
    sync
    mv -f "$cmdline.new" "$cmdline"
    sync
}

# --- on the workstation ---

enable_on_card() {
    [ -f "$cmdline" ] || die "$boot has no cmdline.txt: copy this folder to the boot partition of Raspberry Pi OS (bootfs)"
    case $folder in
        *[!A-Za-z0-9._-]*) die "the name of the folder, $folder, must not have spaces: call it edge-siamese" ;;
    esac
    [ "$(wc -c <"$cmdline")" -gt 1 ] || die "$cmdline is empty: write the card again"
    line=$(head -n 1 "$cmdline" | tr -d '\r')
    case $line in
        *"/$folder/first-boot.sh"*) echo "$cmdline runs it already"; return ;;
        *systemd.run=*/firstrun.sh*)
            # Raspberry Pi Imager's own script: run before it, in the same directory, which the system may rename.
            place=${line#*systemd.run=}
            place=${place%%/firstrun.sh*}
            line=$(printf '%s' "$line" | sed "s|systemd\.run=|systemd.run=$place/$folder/first-boot.sh &|")
            ;;
        *systemd.run=*) die "$cmdline runs another program (systemd.run=): remove it first" ;;
        *) line="${line% } systemd.run=/boot/firmware/$folder/first-boot.sh $OPTIONS" ;;
    esac
    write_cmdline "$line"
    echo "$cmdline: edge-siamese is installed at the next start; see $folder/first-boot.log afterward"
}

# --- on the device: before the system starts ---

# Always succeeds: systemd would turn the device off otherwise.
schedule() {
    unit=/etc/systemd/system/$UNIT
    wanted=/etc/systemd/system/multi-user.target.wants
    if mkdir -p "$wanted" && cat >"$unit.new" <<TEXT && mv -f "$unit.new" "$unit" && ln -sfn "$unit" "$wanted/$UNIT"; then
[Unit]
Description=Install edge-siamese from the boot partition
RequiresMountsFor=$here
ConditionPathExists=$here/first-boot.sh

[Service]
Type=oneshot
ExecStart=/bin/sh $here/first-boot.sh --install
TimeoutStartSec=30min
TEXT
        echo 'scheduled: the installation begins at the next start'
    else
        echo 'result: failed: the root file system cannot be written'
    fi
    sync
    # Options of other programs stay, such as those of Imager's own script, which removes them itself.
    line=$(head -n 1 "$cmdline" | sed "s| *systemd\.run=[^ ]*/$folder/first-boot\.sh||g")
    case $line in
        *systemd.run=*) ;;
        *) line=$(printf '%s' "$line" | sed -e 's| *systemd\.run_success_action=reboot||' -e 's| *systemd\.unit=kernel-command-line\.target||') ;;
    esac
    [ -z "$line" ] || write_cmdline "$line"
}

# --- on the device: once it runs ---

# The green LED: heartbeat during the installation, fast blinking after a failure.
led() {
    for place in "$leds/ACT" "$leds/led0"; do
        [ -w "$place/trigger" ] || continue
        echo "$1" >"$place/trigger"
        if [ "$1" = timer ]; then echo 100 >"$place/delay_on"; echo 100 >"$place/delay_off"; fi
        return 0
    done 2>/dev/null
    return 0
}

outcome='failed (see above); the next start tries again'
# shellcheck disable=SC2317  # the trap calls it
finish() {
    status=$?
    echo "result: $outcome"
    sync
    if [ "$status" -eq 0 ]; then led mmc0; else led timer; fi
}

installed() { # the version of a package that is completely installed; empty if it is not
    dpkg-query --show --showformat='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p'
}

dpkg_install() {
    tries=0
    while :; do
        code=0
        dpkg --install "$@" || code=$?
        # 2: the database is in use.
        if [ "$code" -ne 2 ] || [ "$tries" -ge "$LOCK_WAIT_TRIES" ]; then return "$code"; fi
        tries=$((tries + 1))
        sleep 10
    done
}

install_all() {
    exec >>"$log" 2>&1
    trap finish EXIT
    trap 'exit 130' INT TERM HUP
    export DEBIAN_FRONTEND=noninteractive
    echo "attempt $(($(grep -c '^attempt ' "$log") + 1)) at $(date -u +%FT%TZ); without a network, the clock may be wrong"
    sync
    led heartbeat

    set -- "$here"/edge-siamese_*.deb
    if [ $# -ne 1 ] || [ ! -f "$1" ]; then die "one file edge-siamese_*.deb is needed in $here, not: $*"; fi
    package=$1
    version=$(dpkg-deb --field "$package" Version)
    dpkg --configure -a || echo 'note: packages of the system are not configured (see above)'

    settings=/etc/edge-siamese/config.toml
    if [ -f "$here/config.toml" ] && [ ! -e "$settings" ]; then
        install -D -m 644 "$here/config.toml" "$settings.new"
        sync
        mv -f "$settings.new" "$settings"
    elif [ -f "$here/config.toml" ] && ! cmp -s "$here/config.toml" "$settings"; then
        echo "note: $settings exists and is kept"
    fi

    if [ "$(installed edge-siamese)" = "$version" ]; then
        echo "edge-siamese $version is installed already"
    else
        # What the system lacks of the packages that were collected for it.
        # shellcheck source=/dev/null
        suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        set -- "$package"
        for file in "$here/packages/$suite"/*.deb; do
            [ -f "$file" ] || continue
            if [ -z "$(installed "$(dpkg-deb --field "$file" Package)")" ]; then set -- "$file" "$@"; fi
        done
        dpkg_install "$@"
    fi
    if [ -d "$here/bundle" ]; then edge-siamese model install "$here/bundle"; fi

    if systemctl --quiet is-active edge-siamese; then
        outcome="edge-siamese $version is installed and running"
    else
        journalctl --unit edge-siamese --lines 5 --no-pager --output cat || true
        outcome="edge-siamese $version is installed, but it does not run (see above)"
    fi
    rm -f "/etc/systemd/system/multi-user.target.wants/$UNIT" "/etc/systemd/system/$UNIT"
}

[ $# -le 1 ] || die 'one option is allowed (--help shows them)' 2
case ${1:-} in
    --help | -h) usage ;;
    --enable) enable_on_card ;;
    --install) install_all ;;
    '')
        if [ ! -d /run/systemd/system ] || [ "$(id -u)" -ne 0 ]; then usage >&2; exit 2; fi
        schedule >>"$log" 2>&1 || true
        exit 0
        ;;
    *) die "unknown option $1 (--help shows the options)" 2 ;;
esac
