# After all packages: what makes it the master client of the lab, as its administrator would.
# $1: the root being built; $LAB_KEY: root's public ssh key.
set -eu
root=$1

echo master > "$root/etc/hostname"
cat > "$root/etc/hosts" <<END
127.0.0.1	localhost
127.0.1.1	master.lab master

::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
END
echo 'nameserver 10.77.0.1' > "$root/etc/resolv.conf"
cat > "$root/etc/network/interfaces" <<END
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
auto ens3
iface ens3 inet static
	address 10.77.0.5/24
	gateway 10.77.0.1
	dns-nameservers 10.77.0.1
END

mkdir -p -m 700 "$root/root/.ssh"
echo "$LAB_KEY" > "$root/root/.ssh/authorized_keys"
chmod 600 "$root/root/.ssh/authorized_keys"

mkdir -p "$root/boot/grub"
cat > "$root/etc/default/grub" <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="console=ttyS0,115200 no_timer_check"
GRUB_TERMINAL="serial console"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END

cat > "$root/usr/local/sbin/lab-marker" <<'END'
#!/bin/sh
# Says on the serial port which machine this is and what it runs from.
addresses=$(ip -4 -o addr show scope global | awk '{print $4}' | paste -sd,)
line="LAB-MARKER host=$(hostname) addr=$addresses root=$(findmnt -no SOURCE,UUID / | tr -s ' ' ,) cmdline=$(cat /proc/cmdline)"
printf '\n%s\n' "$line" > /dev/ttyS0
END
chmod 755 "$root/usr/local/sbin/lab-marker"
cat > "$root/etc/systemd/system/lab-marker.service" <<'END'
[Unit]
Description=Tell the lab that this machine is up
Wants=network-online.target
After=network-online.target ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-marker

[Install]
WantedBy=multi-user.target
END
systemctl --root="$root" --quiet enable lab-marker.service
# They would compete with the tests for an emulated processor.
systemctl --root="$root" --quiet disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer fstrim.timer

# A running machine has an identity; the tests look whether its copies get their own.
rm -f "$root/etc/machine-id"
systemd-machine-id-setup --root="$root" > /dev/null 2>&1

# What a copy has to keep.
mkdir -p "$root/srv/lab/here" "$root/srv/lab/there"
cp "$root/usr/bin/true" "$root/srv/lab/capable"
setcap cap_net_raw,cap_net_bind_service+ep "$root/srv/lab/capable"
echo 'linked' > "$root/srv/lab/here/one"
ln "$root/srv/lab/here/one" "$root/srv/lab/there/two"
echo 'with an ACL' > "$root/srv/lab/acl"
setfacl -m u:1000:rw-,g:3000000000:r-- "$root/srv/lab/acl"
setfacl -d -m u:1000:rwx "$root/srv/lab/there"
echo 'with attributes' > "$root/srv/lab/xattr"
setfattr -n user.comment -v 'kept by every copy' "$root/srv/lab/xattr"
setfattr -n trusted.comment -v 'for root only' "$root/srv/lab/xattr"
truncate -s 64M "$root/srv/lab/sparse"
printf 'end' | dd of="$root/srv/lab/sparse" bs=1 seek=50000000 conv=notrunc status=none
mkfifo "$root/srv/lab/fifo"
ln -s no/such/file "$root/srv/lab/dangling"
printf 'odd name\n' > "$root/srv/lab/$(printf 'new\nline \377*')"
chown 3000000000:3000000001 "$root/srv/lab/here/one"
touch -h -d '1969-07-20 20:17:40.123456789 UTC' "$root/srv/lab/xattr" "$root/srv/lab/dangling"

rm -rf "$root"/var/log/apt "$root"/var/log/*.log "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
