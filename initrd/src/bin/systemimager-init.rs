//! PID 1 of the miniature system; see [`systemimager_initrd::init`].

fn main() {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        // Started by hand it would mount over a running system.
        eprintln!("systemimager-init is PID 1 of the miniature system and does nothing else");
        std::process::exit(2);
    }
    systemimager_initrd::init::run()
}
