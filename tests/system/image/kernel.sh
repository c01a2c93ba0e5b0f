#!/bin/bash
# Debian's kernel for the virtual machine, with what Debian leaves out: a simulated GPIO chip, a simulated camera and its
# DMA heap, built as modules from Debian's own source package.
#   kernel.sh DIRECTORY        leaves in it: vmlinux, initrd, modules/lib/modules/VERSION, tsc_khz
# Needs Debian 12 with its package lists (apt-get update), gcc, make.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/work" && cd "$1/work"

image=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
version=${image#linux-image-}
common=linux-headers-${version%-amd64}-common
mkdir packages kernel headers busybox
(cd packages && apt-get -qq -o APT::Sandbox::User=root download \
    "$image" "linux-headers-$version" "$common" linux-kbuild-6.1 linux-source-6.1 busybox-static)
dpkg-deb -x packages/"$image"_*.deb kernel
dpkg-deb -x packages/busybox-static_*.deb busybox
for package in packages/linux-headers-* packages/linux-kbuild-*; do dpkg-deb -x "$package" headers; done
dpkg-deb --fsys-tarfile packages/linux-source-6.1_*.deb | tar -xO ./usr/src/linux-source-6.1.tar.xz | tar -xJ --wildcards \
    '*/drivers/gpio/gpio-sim.c' '*/drivers/gpio/gpiolib.h' '*/kernel/irq/irq_sim.c' '*/drivers/media/test-drivers/vimc/*' \
    '*/drivers/dma-buf/dma-heap.c' '*/drivers/dma-buf/heaps/system_heap.c'
source=linux-source-6.1 usr=$PWD/headers/usr/src
sed -i "s#/usr/src/#$usr/#g" "$usr/linux-headers-$version/Makefile" "$usr/$common/Makefile"

mkdir -p build/gpio build/vimc build/heap
# irq_sim is no module in the kernel and calls what is not exported to modules; generic_handle_irq does the same.
cp $source/drivers/gpio/gpiolib.h build/gpio/
cp $source/drivers/gpio/gpio-sim.c build/gpio/gpio_sim_main.c
sed 's/handle_simple_irq(irq_to_desc(irqnum));/generic_handle_irq(irqnum);/' $source/kernel/irq/irq_sim.c > build/gpio/irq_sim.c
printf 'obj-m := gpio-sim.o\ngpio-sim-y := gpio_sim_main.o irq_sim.o\nccflags-y += -I$(src)\n' > build/gpio/Makefile
cp $source/drivers/media/test-drivers/vimc/*.[ch] build/vimc/
sed 's/obj-\$(CONFIG_VIDEO_VIMC)/obj-m/' $source/drivers/media/test-drivers/vimc/Makefile > build/vimc/Makefile
# The heap of ordinary memory under the name that picamera2 looks for, so that it allocates as on a Raspberry Pi.
sed -e 's/subsys_initcall(dma_heap_init);//' $source/drivers/dma-buf/dma-heap.c > build/heap/heap_core.c
cat >> build/heap/heap_core.c <<'C'
int system_heap_create(void);
static int __init heaps_init(void)
{
	int error = dma_heap_init();
	return error ? error : system_heap_create();
}
module_init(heaps_init);
MODULE_IMPORT_NS(DMA_BUF);
C
sed -e 's/^static int system_heap_create/int system_heap_create/' -e 's/^module_init.*//' -e 's/exp_info.name = "system"/exp_info.name = "linux,cma"/' \
    $source/drivers/dma-buf/heaps/system_heap.c > build/heap/heap_system.c
printf 'obj-m := dma-heaps.o\ndma-heaps-y := heap_core.o heap_system.o\n' > build/heap/Makefile
for module in gpio vimc heap; do
    make -s -C "$usr/linux-headers-$version" "M=$PWD/build/$module" modules > make.log 2>&1 || { cat make.log >&2; exit 1; }
done
mkdir -p "kernel/lib/modules/$version/extra"
cp build/*/*.ko "kernel/lib/modules/$version/extra/"
strip --strip-debug "kernel/lib/modules/$version"/extra/*.ko

busybox/bin/busybox depmod -b kernel "$version"
python3 "$here/modules.py" kernel "$version" ../modules virtio_pci virtio_blk virtio_rng virtio_console 9pnet_virtio 9p crc32c_generic \
    libcrc32c ext4 autofs4 gpio-sim dma-heaps vivid vimc i6300esb > order
bash "$here/initrd.sh" kernel/boot/vmlinuz-"$version" ../modules "$version" busybox/bin/busybox ..
gcc -O2 -o ../tsc_khz "$here/tsc_khz.c"
cd .. && rm -rf work
