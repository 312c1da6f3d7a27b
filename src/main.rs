//! The `mica` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A sandbox's first process is this program again: it does nothing of what follows.
    mica::runtime::init_if_child();
    mica::runtime::set_up_process();
    mica::cli::run()
}
