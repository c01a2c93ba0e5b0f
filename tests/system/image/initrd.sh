#!/bin/bash
# The kernel unpacked, which spares an emulated processor seconds, and an initrd that mounts the disk and hands over.
#   initrd.sh VMLINUZ MODULES VERSION BUSYBOX OUT
set -euo pipefail
vmlinuz=$1 modules=$(realpath "$2") version=$3 busybox=$(realpath "$4") out=$(realpath "$5")
here=$(cd "$(dirname "$0")" && pwd)
place=$modules/lib/modules/$version

python3 - "$vmlinuz" "$out/vmlinux" <<'P'
import lzma, pathlib, sys
packed = pathlib.Path(sys.argv[1]).read_bytes()
start = packed.index(b"\xfd7zXZ\0")
pathlib.Path(sys.argv[2]).write_bytes(lzma.LZMADecompressor().decompress(packed[start:]))
P

root=$(mktemp -d)
mkdir -p "$root"/{bin,dev,proc,sys,modules,disk}
cp "$busybox" "$root/bin/busybox"
"$busybox" depmod -b "$modules" "$version"
number=100
python3 "$here/modules.py" "$modules" "$version" "$root/picked" virtio_pci virtio_blk crc32c_generic libcrc32c ext4 |
while read -r module; do
    number=$((number + 1))
    cp "$place/$module" "$root/modules/$number-$(basename "$module")"
done
rm -r "$root/picked"
cat > "$root/init" <<'I'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do /bin/busybox sleep 0.1; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 /dev/vda /disk || /bin/busybox poweroff -f
/bin/busybox mount --move /dev /disk/dev
exec /bin/busybox switch_root /disk /sbin/init
I
chmod +x "$root/init"
(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) > "$out/initrd"
rm -r "$root"
