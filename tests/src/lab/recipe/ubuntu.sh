# After customize.sh: what Ubuntu has otherwise than Debian.
# $1: the root being built.
set -eu
root=$1

rm "$root/etc/network/interfaces"
cat > "$root/etc/netplan/01-lab.yaml" <<END
network:
  version: 2
  renderer: networkd
  ethernets:
    ens3:
      addresses: [10.77.0.5/24]
      nameservers: {addresses: [10.77.0.1]}
      routes: [{to: default, via: 10.77.0.1}]
END
chmod 600 "$root/etc/netplan/01-lab.yaml"
sed -i 's/^GRUB_DISTRIBUTOR=.*/GRUB_DISTRIBUTOR=Ubuntu/' "$root/etc/default/grub"
