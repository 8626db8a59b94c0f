mod caches;
mod callgrind;
mod counted;
mod keys;
mod stores;

use keys::Shape;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--child", name, items, partitions] = arguments[..] {
        let number = |text: &str| text.parse().expect("this program wrote a number");
        counted::child(name, Shape::new(number(items), number(partitions)));
        return ExitCode::SUCCESS;
    }
    for name in [
        "MemoryDb",
        "DashMap",
        "papaya",
        "scc",
        "Mutex<HashMap>",
        "Mutex<BTreeMap>",
        "surrealmx",
        "redb in memory",
        "SQLite :memory:",
        "LruCache",
        "Mutex<lru>",
        "quick_cache",
        "moka",
    ] {
        match counted::measure(name, Shape::new(1_000, 1)) {
            Ok(counts) => {
                for (operation, count) in counts {
                    println!("{name:18} {operation:34} {count:10.1}");
                }
            }
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    ExitCode::SUCCESS
}
