#!/bin/sh
# Installs edge-siamese on a device, or a newer version over an older one; needs no network where it is given the wheels.
set -eu
umask 022 # the daemon's account reads what root installs

usage() {
    cat <<'TEXT'
usage: sudo sh install.sh [options]

Installs the program into /opt/edge-siamese, and the service edge-siamese, which starts at once and at each boot. Over
an older version: settings and objects stay, and the older program is kept for --rollback.

  --wheels DIR    take all Python packages from DIR, as scripts/wheels.sh fills it, and use no network
                  (default: the folder wheels beside this script, if there is one)
  --runtime NAME  auto, ai-edge-litert, tflite-runtime or onnxruntime (default: auto: tflite-runtime on Python 3.11,
                  else ai-edge-litert)
  --dashboard     serve the dashboard on the network from now on, with a password that is made and told
  --no-start      start and restart nothing
  --rollback      go back to the program that the last installation replaced
  --program-only  leave the service's files alone: the Debian package has placed them
  --prefix DIR    place everything below DIR and start nothing, to look at it
  --help          this text

PYTHON names another interpreter than /usr/bin/python3.
TEXT
}

# The versions that were tested together (requirements/device.lock); a folder of wheels may have others.
PINS='tflite-runtime==2.14.0 ai-edge-litert==2.3.0 onnxruntime==1.32.0 gpiod==2.5.0 msgspec==0.22.0
    starlette==1.10.0 uvicorn==0.54.0 anyio==4.16.0 idna==3.20 click==8.5.1 h11==0.16.0 typing-extensions==4.16.0
    paho-mqtt==2.2.0 prometheus-client==0.26.0'
# What the daemon always needs, besides a runtime.
REQUIRED='gpiod msgspec'
# What dashboard, MQTT and metrics need, which are off until config.toml turns them on: 5 MB, of Python alone.
EXTRAS='starlette uvicorn anyio idna click h11 typing-extensions paho-mqtt prometheus-client'
NEEDED_MB=300

here=$(cd "$(dirname "$0")" && pwd)
wheels='' offline='' runtime=auto start=yes prefix='' only='' rollback='' dashboard=''
value() { # of the option $1; $2 says how many arguments are left
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
    *) die "--runtime: $runtime is none of auto, ai-edge-litert, tflite-runtime, onnxruntime" 2 ;;
esac
if [ -n "$prefix" ]; then
    start=''
    mkdir -p "$prefix"
    prefix=$(cd "$prefix" && pwd)
elif [ "$(id -u)" -ne 0 ]; then
    die 'this has to run as root: sudo sh install.sh'
fi
python=${PYTHON:-/usr/bin/python3}
opt=$prefix/opt/edge-siamese
local=$prefix/usr/local
unit=edge-siamese.service

running() { [ -z "$prefix" ] && [ -d /run/systemd/system ]; } # systemd is, and is to be told
active() { running && systemctl --quiet is-active "$unit"; }
target() { readlink "$opt/$1" 2>/dev/null || true; }

# A link changes in one step: there is no moment, not even when the power goes, in which there is no program.
point() {
    ln -sfn "$2" "$opt/$1.new"
    mv -Tf "$opt/$1.new" "$opt/$1"
    sync -f "$opt"
}

# What neither `current` nor `previous` names: versions before those, and what an interrupted installation left.
prune() {
    for kept in "$opt"/versions/*; do
        case versions/${kept##*/} in
            "$(target current)" | "$(target previous)" | 'versions/*') ;;
            *) rm -rf "$kept" ;;
        esac
    done
}

# The files around the program, from the program's own version, so that a rollback brings the ones that fit.
place_files() {
    [ -z "$only" ] || return 0
    from=$opt/$1/share/edge-siamese
    put() { install -D -m 644 "$from/$1" "$2"; }
    put edge-siamese.service "$local/lib/systemd/system/$unit"
    put sysusers.conf "$local/lib/sysusers.d/edge-siamese.conf"
    put tmpfiles.conf "$local/lib/tmpfiles.d/edge-siamese.conf"
    put 99-edge-siamese.rules "$local/lib/udev/rules.d/99-edge-siamese.rules"
    put completions/edge-siamese.bash "$local/share/bash-completion/completions/edge-siamese"
    put completions/_edge-siamese "$local/share/zsh/site-functions/_edge-siamese"
    mkdir -p "$local/bin"
    ln -sfn /opt/edge-siamese/current/bin/edge-siamese "$local/bin/edge-siamese"
}

# Account, directories and device rules; all of it may be done again and again.
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

# To the version that ran before.
go_back() {
    point current "$old"
    if [ -n "$before" ]; then point previous "$before"; else rm -f "$opt/previous"; fi
    place_files current
    prepare_system
    systemctl restart "$unit"
    prune
}

mkdir -p "$opt/versions"
exec 9>"$opt/.lock"
flock -n 9 || die 'another installation is under way'

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

# --- is all there? ---

problems=0
missing() {
    problems=$((problems + 1))
    echo "missing: $1" >&2
    echo "    get it: $2" >&2
}
if [ -z "$prefix" ] && [ -z "$only" ] && dpkg-query -W -f='${Status}' edge-siamese 2>/dev/null | grep -q ' installed$'; then
    die 'edge-siamese is installed as a Debian package here: install a newer one of those, or first: sudo apt remove edge-siamese'
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
    0) missing "the wheel of edge-siamese in $wheels" 'in a checkout: make wheel; or name a folder of wheels: --wheels DIR' ;;
    1) ;;
    *) missing "one wheel of edge-siamese in $wheels: there are $programs" 'remove the older ones' ;;
esac
[ "$problems" -eq 0 ] || exit 1

# --- which packages ---

tag=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
there() { # whether the folder has a wheel of package $1 for this Python
    for found in "$wheels/$(echo "$1" | tr - _)"-*; do
        case $found in
            *-cp"$tag"-*.whl | *-py3-none-*.whl) return 0 ;;
        esac
    done
    return 1
}
if [ "$runtime" = auto ]; then
    runtime=ai-edge-litert
    # The lightest, and it is made for numpy 1.
    if [ "$tag" = 311 ] && "$python" -c 'import numpy, sys; sys.exit(numpy.__version__.split(".")[0] != "1")'; then
        runtime=tflite-runtime
    fi
    if [ -n "$offline" ] && ! there "$runtime"; then
        for other in tflite-runtime ai-edge-litert onnxruntime; do
            if there "$other"; then runtime=$other; break; fi
        done
    fi
fi
packages='' lacking=''
for name in "$runtime" $REQUIRED $EXTRAS; do
    if [ -z "$offline" ]; then
        for pin in $PINS; do
            [ "${pin%%==*}" != "$name" ] || packages="$packages $pin"
        done
    elif there "$name"; then
        packages="$packages $name"
    elif echo " $EXTRAS " | grep -q " $name "; then
        lacking="$lacking $name"
    else
        die "$wheels has no wheel of $name for Python $("$python" -c 'import platform; print(platform.python_version())'): fill it with scripts/wheels.sh"
    fi
done

[ -z "$lacking" ] ||
    echo "note: $wheels lacks$lacking: dashboard, MQTT and metrics, which need them, will say so when they are turned on" >&2

# --- a version of its own, beside the one that runs ---

version=${program##*/edge_siamese-}
version=${version%%-*}
number=1
while [ -e "$opt/versions/$version-$number" ]; do number=$((number + 1)); done
new=versions/$version-$number
old=$(target current) before=$(target previous)
switched=''
# shellcheck disable=SC2317  # the trap calls it
abandoned() {
    status=$?
    [ "$status" -ne 0 ] || return 0
    [ -n "$switched" ] || rm -rf "${opt:?}/$new"
    if [ -z "$switched" ] && [ -n "$old" ]; then place_files current; fi
    if [ -n "$old" ]; then echo "nothing has changed: edge-siamese is still at ${old#versions/}" >&2; fi
}
trap abandoned EXIT
trap 'exit 130' INT TERM HUP

echo "installing edge-siamese $version with $runtime, Python $("$python" -c 'import platform; print(platform.python_version())')"
# With the system's numpy, Pillow and picamera2, which is only available from apt.
"$python" -m venv --system-site-packages "$opt/$new"
# Their other declared dependencies are for tools that a device does not use; the check below proves that they run.
# shellcheck disable=SC2086  # names, one by one
"$opt/$new/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --ignore-installed \
    --find-links "$wheels" ${offline:+--no-index} "$program" $packages ||
    die "pip could not install $program $packages (its message is above)"
"$opt/$new/bin/python" -I -c '
import sys
import gpiod, msgspec, PIL
from edge_siamese.runtimes.selection import runtime_statuses
found = {status.name: status for status in runtime_statuses()}[sys.argv[1]]
sys.exit(None if found.usable else f"error: {found}")
' "$runtime" || die "$runtime does not run here; another can be chosen with --runtime"
"$opt/$new/bin/edge-siamese" --version >/dev/null || die 'the program does not start'
mkdir -p "$opt/$new/share/edge-siamese"
for name in install.sh uninstall.sh edge-siamese.service sysusers.conf tmpfiles.conf 99-edge-siamese.rules \
    memory-512mb.conf config.toml completions; do
    [ ! -e "$here/$name" ] || cp -R "$here/$name" "$opt/$new/share/edge-siamese/"
done

# --- and over to it ---

place_files "$new"
settings=$prefix/etc/edge-siamese/config.toml
if [ ! -e "$settings" ]; then
    install -D -m 644 "$here/config.toml" "$settings"
fi
prepare_system
if [ -n "$dashboard" ]; then
    # Options that were changed before stay as they are; settings of an older version have no such table yet.
    grep -q '^\[dashboard\]' "$settings" || printf '\n[dashboard]\n# enabled =\n# listen =\n' >>"$settings"
    sed -i '/^\[dashboard\]/,/^\[/ {
        s/^# *enabled = *.*/enabled = true/
        s/^# *listen = *.*/listen = "0.0.0.0"/
    }' "$settings"
    if [ -n "$prefix" ]; then
        export STATE_DIRECTORY="$prefix/var/lib/edge-siamese"
        mkdir -p "$STATE_DIRECTORY"
    fi
    page=$("$opt/$new/bin/edge-siamese" dashboard address --json --config "$settings") ||
        die "$settings cannot be used (its message is above)"
    case $page in
        *'"enabled": true'*) ;;
        *) echo "note: $settings keeps the dashboard off: set enabled = true in [dashboard]" >&2 ;;
    esac
    case $page in # a password that there is already stays
        *'"password": true'*) ;;
        *) "$opt/$new/bin/edge-siamese" dashboard password --generate --config "$settings" ;;
    esac
fi
was_active=''
if active; then was_active=yes; fi
sync -f "$opt" # the program is on the disk before the link says so
if [ -n "$old" ]; then point previous "$old"; fi
point current "$new"
switched=yes

if [ -z "$old" ] && [ -z "$prefix" ]; then systemctl --quiet enable "$unit"; fi
if [ -n "$start" ] && running; then
    # At an upgrade, a service that somebody has stopped stays so.
    if [ -n "$was_active" ] || [ -z "$old" ]; then
        if ! systemctl restart "$unit"; then
            journalctl --unit "$unit" --lines 5 --no-pager --output cat >&2 || true
            if [ -n "$was_active" ] && [ -n "$old" ]; then
                echo "error: edge-siamese $version does not start (its last words are above)" >&2
                go_back
                exit 1
            fi
            echo 'note: edge-siamese is installed but does not run yet (its last words are above)' >&2
        fi
    fi
fi
prune
if [ -n "$prefix" ]; then
    echo "edge-siamese $version is below $prefix"
elif active; then
    echo "edge-siamese $version runs; see: edge-siamese status"
else
    echo "edge-siamese $version is installed; start it with: sudo systemctl start edge-siamese"
fi
