#!/bin/sh
# Installs or upgrades edge-siamese on a device; with --wheels, without a network.
set -eu
umask 022 # the daemon's account reads what root installs

usage() {
    cat <<'TEXT'
usage: sudo sh install.sh [options]

Installs the program in /opt/edge-siamese and the service edge-siamese, which starts immediately and at each boot. An
upgrade keeps settings and objects, and the previous program for --rollback.

  --wheels DIR    install all Python packages from DIR, filled by scripts/wheels.sh, without a network
                  (default: the directory wheels next to this script, if it exists)
  --runtime NAME  auto, ai-edge-litert, tflite-runtime or onnxruntime (default: auto: tflite-runtime on Python 3.11,
                  else ai-edge-litert)
  --dashboard     serve the dashboard on the network, with a generated password that is printed
  --no-start      do not start or restart the service
  --rollback      restore the program that the last installation replaced
  --program-only  do not install the service's files (the Debian package does)
  --prefix DIR    install below DIR for inspection, and start nothing
  --help          this text

PYTHON names an interpreter to use instead of /usr/bin/python3.
TEXT
}

# Versions tested together (requirements/device.lock); a directory of wheels may have others.
PINS='tflite-runtime==2.14.0 ai-edge-litert==2.3.0 onnxruntime==1.32.0 gpiod==2.5.0 msgspec==0.22.0
    starlette==1.10.0 uvicorn==0.54.0 anyio==4.16.0 idna==3.20 click==8.5.1 h11==0.16.0 typing-extensions==4.16.0
    paho-mqtt==2.2.0 prometheus-client==0.26.0'
# Required packages, in addition to a runtime.
REQUIRED='gpiod msgspec'
# Packages for dashboard, MQTT and metrics, which are off by default; 5 MB of pure Python.
EXTRAS='starlette uvicorn anyio idna click h11 typing-extensions paho-mqtt prometheus-client'
NEEDED_MB=300

here=$(cd "$(dirname "$0")" && pwd)
wheels='' offline='' runtime=auto start=yes prefix='' only='' rollback='' dashboard=''
value() { # check that the option $1 has a value; $2 is the number of arguments left
    [ "$2" -ge 2 ] || die "$1 needs a value (--help shows the options)" 2
}
die() {
    echo "error: $1" >&2
    exit "${2:-1}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) value "$1" $#; wheels=$2 offline=yes; shift ;;
        --runtime) value "$1" $#; runtime=$2; shift ;;
        --prefix) value "$1" $#; prefix=$2; shift ;;
        --dashboard) dashboard=yes ;;
        --no-start) start='' ;;
        --rollback) rollback=yes ;;
        --program-only) only=yes ;;
        --help | -h) usage; exit 0 ;;
        *) die "unknown option $1 (--help shows the options)" 2 ;;
    esac
    shift
done
case $runtime in
    auto | ai-edge-litert | tflite-runtime | onnxruntime) ;;
    *) die "--runtime: $runtime is not one of auto, ai-edge-litert, tflite-runtime, onnxruntime" 2 ;;
esac
if [ -n "$prefix" ]; then
    start=''
    mkdir -p "$prefix"
    prefix=$(cd "$prefix" && pwd)
elif [ "$(id -u)" -ne 0 ]; then
    die 'root is required: sudo sh install.sh'
fi
python=${PYTHON:-/usr/bin/python3}
opt=$prefix/opt/edge-siamese
local=$prefix/usr/local
unit=edge-siamese.service

running() { [ -z "$prefix" ] && [ -d /run/systemd/system ]; } # whether to use a running systemd
active() { running && systemctl --quiet is-active "$unit"; }
target() { readlink "$opt/$1" 2>/dev/null || true; }

# Atomic: even after a power failure the link names a complete program.
point() {
    ln -sfn "$2" "$opt/$1.new"
    mv -Tf "$opt/$1.new" "$opt/$1"
    sync -f "$opt"
}

# Removes versions that are neither `current` nor `previous`, such as those of interrupted installations.
prune() {
    for kept in "$opt"/versions/*; do
        case versions/${kept##*/} in
            "$(target current)" | "$(target previous)" | 'versions/*') ;;
            *) rm -rf "$kept" ;;
        esac
    done
}

# The service's files come from the installed version, so that a rollback restores the matching ones.
place_files() {
    [ -z "$only" ] || return 0
    from=$opt/$1/share/edge-siamese
    put() { install -D -m 644 "$from/$1" "$2"; }
    put edge-siamese.service "$local/lib/systemd/system/$unit"
    put sysusers.conf "$local/lib/sysusers.d/edge-siamese.conf"
    put tmpfiles.conf "$local/lib/tmpfiles.d/edge-siamese.conf"
    put 99-edge-siamese.rules "$local/lib/udev/rules.d/99-edge-siamese.rules"
    put_completion() { "$opt/$1/bin/edge-siamese" completion "$2" | install -D -m 644 /dev/stdin "$local/share/$3"; }
    put_completion "$1" bash bash-completion/completions/edge-siamese
    put_completion "$1" zsh zsh/site-functions/_edge-siamese
    put_completion "$1" fish fish/vendor_completions.d/edge-siamese.fish
    install -D -m 644 "$opt/$1/share/man/man1/edge-siamese.1" "$local/share/man/man1/edge-siamese.1"
    mkdir -p "$local/bin"
    ln -sfn /opt/edge-siamese/current/bin/edge-siamese "$local/bin/edge-siamese"
}

# Account, directories and device rules; idempotent.
prepare_system() {
    [ -z "$prefix" ] && [ -z "$only" ] || return 0
    systemd-sysusers "$local/lib/sysusers.d/edge-siamese.conf"
    systemd-tmpfiles --create "$local/lib/tmpfiles.d/edge-siamese.conf"
    running || return 0
    systemctl daemon-reload
    if [ -S /run/udev/control ]; then
        udevadm control --reload
        udevadm trigger --action=change --subsystem-match=dma_heap --subsystem-match=gpio --subsystem-match=leds || true
    fi
}

# Restores the previous version.
restore_previous() {
    point current "$old"
    if [ -n "$before" ]; then point previous "$before"; else rm -f "$opt/previous"; fi
    place_files current
    prepare_system
    systemctl restart "$unit"
    prune
}

mkdir -p "$opt/versions"
exec 9>"$opt/.lock"
flock -n 9 || die 'another installation is running'

if [ -n "$rollback" ]; then
    old=$(target previous) now=$(target current)
    if [ -z "$old" ] || [ ! -d "$opt/$old" ]; then die 'there is no earlier version to go back to'; fi
    point current "$old"
    point previous "$now"
    place_files current
    prepare_system
    if [ -n "$start" ] && running; then systemctl restart "$unit"; fi
    echo "edge-siamese is at ${old#versions/} again; ${now#versions/} is kept: --rollback returns to it"
    exit 0
fi

# --- prerequisites ---

problems=0
missing() {
    problems=$((problems + 1))
    echo "missing: $1" >&2
    echo "    get it: $2" >&2
}
if [ -z "$prefix" ] && [ -z "$only" ] && dpkg-query -W -f='${Status}' edge-siamese 2>/dev/null | grep -q ' installed$'; then
    die 'edge-siamese is installed as a Debian package here: upgrade that package, or remove it first: sudo apt remove edge-siamese'
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    missing "Python 3.11 or newer ($python)" 'Raspberry Pi OS Bookworm or newer has it'
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing "the venv module of $python" 'sudo apt install python3-venv'
    "$python" -c 'import numpy' 2>/dev/null || missing "numpy of $python" 'sudo apt install python3-numpy'
    "$python" -c 'import PIL' 2>/dev/null || missing "Pillow of $python" 'sudo apt install python3-pil'
fi
[ -n "$prefix" ] || [ -x /bin/kill ] || missing '/bin/kill' 'sudo apt install procps'
prune
free=$(df -Pm "$opt" | awk 'NR == 2 { print $4 }')
[ "$free" -ge "$NEEDED_MB" ] || missing "disk space: $NEEDED_MB MB in /opt/edge-siamese, $free MB are free" 'sudo apt clean, or a larger card'

if [ -z "$wheels" ]; then
    wheels=$here/wheels offline=yes
    [ -d "$wheels" ] || wheels=$(dirname "$here")/dist offline=''
fi
program='' programs=0
for candidate in "$wheels"/edge_siamese-*.whl; do
    [ ! -f "$candidate" ] || program=$candidate programs=$((programs + 1))
done
case $programs in
    0) missing "the wheel of edge-siamese in $wheels" 'in a checkout: make wheel; or name a directory of wheels: --wheels DIR' ;;
    1) ;;
    *) missing "a single wheel of edge-siamese in $wheels: it has $programs" 'remove the older ones' ;;
esac
[ "$problems" -eq 0 ] || exit 1

# --- packages ---

tag=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
has_wheel() { # whether the directory has a wheel of package $1 for this Python
    for wheel in "$wheels/$(echo "$1" | tr - _)"-*; do
        case $wheel in
            *-cp"$tag"-*.whl | *-py3-none-*.whl) return 0 ;;
        esac
    done
    return 1
}
if [ "$runtime" = auto ]; then
    runtime=ai-edge-litert
    # The smallest runtime; it needs numpy 1.
    if [ "$tag" = 311 ] && "$python" -c 'import numpy, sys; sys.exit(numpy.__version__.split(".")[0] != "1")'; then
        runtime=tflite-runtime
    fi
    if [ -n "$offline" ] && ! has_wheel "$runtime"; then
        for other in tflite-runtime ai-edge-litert onnxruntime; do
            if has_wheel "$other"; then runtime=$other; break; fi
        done
    fi
fi
packages='' lacking=''
for name in "$runtime" $REQUIRED $EXTRAS; do
    if [ -z "$offline" ]; then
        for pin in $PINS; do
            [ "${pin%%==*}" != "$name" ] || packages="$packages $pin"
        done
    elif has_wheel "$name"; then
        packages="$packages $name"
    elif echo " $EXTRAS " | grep -q " $name "; then
        lacking="$lacking $name"
    else
        die "$wheels has no wheel of $name for Python $("$python" -c 'import platform; print(platform.python_version())'): fill it with scripts/wheels.sh"
    fi
done

[ -z "$lacking" ] ||
    echo "note: $wheels lacks$lacking: dashboard, MQTT and metrics need them and report so when enabled" >&2

# --- install into a new version directory ---

version=${program##*/edge_siamese-}
version=${version%%-*}
number=1
while [ -e "$opt/versions/$version-$number" ]; do number=$((number + 1)); done
new=versions/$version-$number
old=$(target current) before=$(target previous)
switched=''
# shellcheck disable=SC2317  # the trap calls it
abort_installation() {
    status=$?
    [ "$status" -ne 0 ] || return 0
    [ -n "$switched" ] || rm -rf "${opt:?}/$new"
    if [ -z "$switched" ] && [ -n "$old" ]; then place_files current; fi
    if [ -n "$old" ]; then echo "nothing has changed: edge-siamese is still at ${old#versions/}" >&2; fi
}
trap abort_installation EXIT
trap 'exit 130' INT TERM HUP

echo "installing edge-siamese $version with $runtime, Python $("$python" -c 'import platform; print(platform.python_version())')"
# With the system's numpy, Pillow and picamera2, which is only available from apt.
"$python" -m venv --system-site-packages "$opt/$new"
# --no-deps: their other dependencies are for tools that a device does not use; the check below proves that they work.
# shellcheck disable=SC2086  # several names
"$opt/$new/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --ignore-installed \
    --find-links "$wheels" ${offline:+--no-index} "$program" $packages ||
    die "pip could not install $program $packages (see its message above)"
"$opt/$new/bin/python" -I -c '
import sys
import gpiod, msgspec, PIL
from edge_siamese.runtimes.selection import runtime_statuses
status = {status.name: status for status in runtime_statuses()}[sys.argv[1]]
sys.exit(None if status.usable else f"error: {status}")
' "$runtime" || die "$runtime does not work on this device; choose another with --runtime"
"$opt/$new/bin/edge-siamese" --version >/dev/null || die 'the program does not start'
mkdir -p "$opt/$new/share/edge-siamese"
for name in install.sh uninstall.sh edge-siamese.service sysusers.conf tmpfiles.conf 99-edge-siamese.rules \
    memory-512mb.conf config.toml; do
    [ ! -e "$here/$name" ] || cp -R "$here/$name" "$opt/$new/share/edge-siamese/"
done

# --- switch to the new version ---

place_files "$new"
settings=$prefix/etc/edge-siamese/config.toml
if [ ! -e "$settings" ]; then
    install -D -m 644 "$here/config.toml" "$settings"
fi
prepare_system
if [ -n "$dashboard" ]; then
    # Options that were changed stay as they are; settings of an older version may lack the table.
    grep -q '^\[dashboard\]' "$settings" || printf '\n[dashboard]\n# enabled =\n# listen =\n' >>"$settings"
    sed -i '/^\[dashboard\]/,/^\[/ {
        s/^# *enabled = *.*/enabled = true/
        s/^# *listen = *.*/listen = "0.0.0.0"/
    }' "$settings"
    if [ -n "$prefix" ]; then
        export STATE_DIRECTORY="$prefix/var/lib/edge-siamese"
        mkdir -p "$STATE_DIRECTORY"
    fi
    # It fails without an answer, or because the dashboard is off: a running daemon has not read the new settings yet.
    page=$("$opt/$new/bin/edge-siamese" dashboard address --json --config "$settings") || [ -n "$page" ] ||
        die "$settings cannot be used (see its message above)"
    sed -n '/^\[dashboard\]/,/^\[/p' "$settings" | grep -q '^enabled *= *true' ||
        echo "note: $settings keeps the dashboard off: set enabled = true in [dashboard]" >&2
    case $page in # keep an existing password
        *'"password": true'*) ;;
        *) "$opt/$new/bin/edge-siamese" dashboard password --generate --config "$settings" ;;
    esac
fi
was_active=''
if active; then was_active=yes; fi
sync -f "$opt" # the program is on the disk before the link names it
if [ -n "$old" ]; then point previous "$old"; fi
point current "$new"
switched=yes

if [ -z "$old" ] && [ -z "$prefix" ]; then systemctl --quiet enable "$unit"; fi
if [ -n "$start" ] && running; then
    # An upgrade does not start a service that was stopped.
    if [ -n "$was_active" ] || [ -z "$old" ]; then
        if ! systemctl restart "$unit"; then
            journalctl --unit "$unit" --lines 5 --no-pager --output cat >&2 || true
            if [ -n "$was_active" ] && [ -n "$old" ]; then
                echo "error: edge-siamese $version does not start (see its log above)" >&2
                restore_previous
                exit 1
            fi
            echo 'note: edge-siamese is installed but not running yet (see its log above)' >&2
        fi
    fi
fi
prune
if [ -n "$prefix" ]; then
    echo "edge-siamese $version is installed below $prefix"
elif active; then
    echo "edge-siamese $version is running; see: edge-siamese status"
else
    echo "edge-siamese $version is installed; start it with: sudo systemctl start edge-siamese"
fi
