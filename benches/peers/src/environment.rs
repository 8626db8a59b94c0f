//! The machine and the versions that are measured.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Describes the machine in one line.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unknown processor".into());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
        .map_or_else(String::new, |kib| format!(", {} GiB of memory", kib >> 20));
    let compiler = Command::new("rustc").arg("--version").output().ok();
    let compiler = compiler.and_then(|output| String::from_utf8(output.stdout).ok());
    let compiler = compiler.map_or_else(String::new, |text| format!(", {}", text.trim()));
    format!(
        "{cpu}, {cores} hardware threads{memory}, {} {}{compiler}.",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// Returns the load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Returns the type of the file system of `directory`, if the system reports it.
pub(crate) fn file_system(directory: &Path) -> Option<String> {
    let directory = fs::canonicalize(directory).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        // The escape of a space.
        let place = fields.next()?.replace("\\040", " ");
        let kind = fields.next()?;
        directory.starts_with(&place).then_some((place.len(), kind))
    });
    // The innermost mount; of several on one directory, the last one, which hides the others.
    let (_, kind) = mounts.max_by_key(|(length, _)| *length)?;
    Some(kind.to_owned())
}

/// Returns the versions of atomic-db and its peers.
pub(crate) fn versions() -> String {
    const NAMES: [&str; 16] = [
        "atomic-db",
        "dashmap",
        "papaya",
        "scc",
        "hashbrown",
        "parking_lot",
        "txmap",
        "surrealmx",
        "redb",
        "fjall",
        "rusqlite",
        "libsqlite3-sys",
        "postgres",
        "lru",
        "quick_cache",
        "moka",
    ];
    let lock = include_str!("../Cargo.lock");
    let version = |name: &&str| {
        let mut lines = lock.lines();
        let mut newest = None;
        while let Some(line) = lines.next() {
            if line == format!("name = {name:?}") {
                newest = lines
                    .next()
                    .and_then(|line| line.strip_prefix("version = "));
            }
        }
        format!("{name} {}", newest.unwrap_or("?").trim_matches('"'))
    };
    let versions: Vec<String> = NAMES.iter().map(version).collect();
    versions.join(", ")
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
