//! Host identity from kernel command line, DHCP lease and hosts file.
