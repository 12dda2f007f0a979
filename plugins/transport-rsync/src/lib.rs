//! Transport by rsync daemons.
