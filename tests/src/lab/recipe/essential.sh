# Before the kernel is installed: a small initramfs for every bus that the lab has.
# $1: the root being built; $LAB_MODULES: the modules, a line each.
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo 'MODULES=list' > "$1/etc/initramfs-tools/conf.d/lab"
echo "$LAB_MODULES" > "$1/usr/share/initramfs-tools/modules.d/lab"
