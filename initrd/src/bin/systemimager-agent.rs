//! The install agent of the miniature system; see [`systemimager_initrd::agent`].

fn main() -> std::process::ExitCode {
    systemimager_initrd::agent::main()
}
