//! Runs this program under valgrind's callgrind, and sends requests to it.
//!
//! A request is a sequence of instructions without effect that valgrind recognizes. The sequences are
//! those of valgrind's `valgrind.h`, and the numbers those of `callgrind.h`.

#![allow(unsafe_code, reason = "a request to valgrind is machine code")]

use std::ffi::CString;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DUMP_STATS_AT: usize = 0x4354_0003;
const ZERO_STATS: usize = 0x4354_0001;
const TOGGLE_COLLECT: usize = 0x4354_0002;
const START_INSTRUMENTATION: usize = 0x4354_0004;
const STOP_INSTRUMENTATION: usize = 0x4354_0005;

fn request(number: usize, argument: usize) {
    let arguments = [number, argument, 0, 0, 0, 0];
    // SAFETY: outside of valgrind the rotations cancel each other and nothing else happens; under it,
    // callgrind reads `arguments` and writes its result to the result register.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") &raw const arguments,
            inout("rdx") 0_usize => _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") &raw const arguments,
            inout("x3") 0_usize => _,
        );
    }
    black_box(arguments);
}

/// Counts the instructions that this thread executes in `body`, and dumps them as `name`.
///
/// Instrumentation is off at all other times, so that filling a store with a million items takes
/// seconds.
pub(crate) fn count(name: &str, body: impl FnOnce()) {
    let name = CString::new(name).expect("a name has no NUL");
    request(START_INSTRUMENTATION, 0);
    request(ZERO_STATS, 0);
    request(TOGGLE_COLLECT, 0);
    body();
    request(TOGGLE_COLLECT, 0);
    request(DUMP_STATS_AT, name.as_ptr() as usize);
    request(STOP_INSTRUMENTATION, 0);
}

/// Returns the version of valgrind, or `None` if it cannot be run.
pub(crate) fn version() -> Option<String> {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return None;
    }
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// One dump of callgrind.
pub(crate) struct Dump {
    pub(crate) name: String,
    pub(crate) instructions: u64,
    /// The file that callgrind wrote.
    pub(crate) file: PathBuf,
}

/// Returns the output of callgrind_annotate for a dump.
///
/// # Errors
///
/// Those of running the tool.
pub(crate) fn annotate(dump: &Dump) -> io::Result<String> {
    let output = Command::new("callgrind_annotate")
        .args(["--auto=no", "--show-percs=yes"])
        .arg(&dump.file)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs this program with `arguments` under callgrind in `folder`, which is cleared first. Returns the
/// dumps in the order in which they were made.
///
/// # Errors
///
/// Those of the run and of its files.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> io::Result<Vec<Dump>> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let status = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--instr-atstart=no",
            "--collect-atstart=no",
            "--combine-dumps=no",
            "--quiet",
        ])
        .arg(format!(
            "--callgrind-out-file={}",
            folder.join("counts").display()
        ))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        let text = format!("valgrind ended with {status} at {arguments:?}");
        return Err(io::Error::other(text));
    }
    let mut dumps = Vec::new();
    for number in 1.. {
        let file = folder.join(format!("counts.{number}"));
        let Ok(text) = fs::read_to_string(&file) else {
            break;
        };
        if let Some((name, instructions)) = parse(&text) {
            dumps.push(Dump {
                name,
                instructions,
                file,
            });
        }
    }
    Ok(dumps)
}

/// Returns the name of a dump and its number of instructions.
fn parse(dump: &str) -> Option<(String, u64)> {
    let after = |start: &str| dump.lines().find_map(|line| line.strip_prefix(start));
    let name = after("desc: Trigger: Client Request: ")?;
    let total = after("summary: ").or_else(|| after("totals: "))?;
    Some((name.trim().to_owned(), total.trim().parse().ok()?))
}
