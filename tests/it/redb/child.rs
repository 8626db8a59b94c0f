//! Child processes, each of which runs one ignored test of this binary.

use std::env;
use std::process::{Child, Command};

/// Returns the command that runs `test`, such as `redb::crash::child_process`, in a process of its own.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}

/// A child that is killed when its test ends or fails.
pub(crate) struct KilledOnDrop(pub(crate) Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
