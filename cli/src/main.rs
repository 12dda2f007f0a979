//! The `systemimager` command with plugins opened from files.

fn main() -> std::process::ExitCode {
    systemimager_cli::main(systemimager_cli::Plugins::FromFiles)
}
