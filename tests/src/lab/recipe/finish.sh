#!/bin/sh
# Runs once, as the first process on the new disk: the boot loader, as Debian installs it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ $$ != 1 ]; then
	set -ex
	mount /boot
	grub-install --target=i386-pc "$(findmnt -no SOURCE / | sed 's/[0-9]*$//')"
	update-grub
	grep -q 'root=UUID=' /boot/grub/grub.cfg
	rm /lab-finish
	umount /boot
	echo LAB-FINISHED
	exit
fi
exec < /dev/null > /dev/console 2>&1
sh "$0" || echo LAB-FINISH-FAILED
sync
mount -o remount,ro /
echo s > /proc/sysrq-trigger
echo o > /proc/sysrq-trigger
# The first process must not end before the machine does.
exec sleep 1000
