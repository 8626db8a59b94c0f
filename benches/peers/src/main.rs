//! atomic-db measured against its peers: the same work, in one run.

mod allocator;
mod cache_trace;
mod caches;
mod callgrind;
mod chart;
mod durable;
mod environment;
mod figures;
mod hot_key;
mod instructions;
mod keys;
mod memory;
mod postgres;
mod report;
mod scale;
// Shared with the tests, which use more of it.
#[allow(dead_code)]
#[path = "../../../tests/it/postgres/server.rs"]
mod server;
mod stores;
mod table;
mod throughput;
mod zipf;

use figures::Figures;
use keys::Shape;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

const USAGE: &str = "\
Usage: cargo run --release --manifest-path benches/peers/Cargo.toml [-- [PART...] [OPTION...]]

Measures atomic-db and its peers, and writes BENCHMARKS.md, the figures and their charts to
target/bench. Without a PART, all parts are measured; parts that are not measured are shown as they
were measured last, or as they are recorded in benches/results. To record a run:
cp -r target/bench/. benches/

Parts:
  instructions  instructions per operation, under valgrind's callgrind
  throughput    time per operation, as ratios, with 1, 2 and all hardware threads
  scale         time per point read, of up to 10 M items (some 12 GB of memory)
  memory        bytes per stored item, of up to 10 M items
  cache         hits and time of the caches on a trace
  durable       commits per second that survive a power failure, with 1, 2, 8 and 32 threads, and reads
  postgres      commits and reads per second on PostgreSQL servers that it starts, with 1, 8 and 32 threads
  hot-key       transactions per second, and their durations, of up to 64 threads on one item
  report        measures nothing, and writes the report of the figures that exist

To see which functions the instructions of an operation on 1 k items belong to:
profile NAME OPERATION, such as profile MemoryDb 'get hit'

Options:
  --quick          counts instructions up to 100 k items, and measures 5 rounds
  --rounds N       measures each time N times; 21 by default
  --trace FILE     replays FILE, with one block number a line, in `cache`; by default a generated trace
  --directory DIR  creates the files of `durable`, `postgres` and `hot-key` in DIR; by default in the system's temporary directory
";

/// The figures that are recorded in the repository.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../results");

/// The output of this program.
const OUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");

struct Plan {
    parts: Vec<&'static str>,
    quick: bool,
    rounds: usize,
    /// Where files are created and removed.
    directory: PathBuf,
    /// The trace to replay instead of the generated one.
    trace: Option<PathBuf>,
}

impl Plan {
    fn new(arguments: &[&str]) -> Result<Self, String> {
        let mut plan = Plan {
            parts: Vec::new(),
            quick: false,
            rounds: 21,
            directory: std::env::temp_dir(),
            trace: None,
        };
        let mut only_report = false;
        let mut rounds = None;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--quick" => plan.quick = true,
                "--rounds" => {
                    let number = arguments.next().and_then(|text| text.parse().ok());
                    let number = number.filter(|number| *number > 0);
                    rounds = Some(number.ok_or("--rounds takes a number from 1")?);
                }
                "--directory" => {
                    let directory = arguments.next().map(PathBuf::from);
                    let directory = directory.filter(|directory| directory.is_dir());
                    plan.directory = directory.ok_or("--directory takes an existing directory")?;
                }
                "--trace" => {
                    let file = arguments.next().ok_or("--trace takes a file")?;
                    plan.trace = Some(PathBuf::from(file));
                }
                "report" => only_report = true,
                other => match report::PARTS.iter().find(|part| **part == other) {
                    Some(part) => plan.parts.push(part),
                    None => return Err(format!("unknown part or option {other:?}")),
                },
            }
        }
        if plan.parts.is_empty() && !only_report {
            plan.parts = report::PARTS.to_vec();
        }
        plan.rounds = rounds.unwrap_or(if plan.quick { 5 } else { plan.rounds });
        Ok(plan)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [instructions::CHILD, name, items, partitions] = arguments[..] {
        let number = |text: &str| text.parse().expect("this program wrote a number");
        instructions::child(name, Shape::new(number(items), number(partitions)));
        return ExitCode::SUCCESS;
    }
    if arguments
        .iter()
        .any(|argument| ["--help", "-h"].contains(argument))
    {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if let ["profile", name, operation] = arguments[..] {
        return match instructions::profile(name, operation) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("cannot profile: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let plan = match Plan::new(&arguments) {
        Ok(plan) => plan,
        Err(problem) => {
            eprint!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match measure(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the measurement failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> io::Result<()> {
    let out = Path::new(OUT);
    let results = out.join("results");
    fs::create_dir_all(&results)?;
    for part in &plan.parts {
        let measured = match *part {
            "instructions" => match callgrind::version() {
                Some(version) => Some(instructions::measure(plan.quick, &version)?),
                None => {
                    eprintln!("instructions: skipped, because valgrind cannot be run");
                    None
                }
            },
            "throughput" => Some(throughput::measure(plan.rounds)),
            "scale" => Some(scale::measure(plan.rounds)),
            "memory" => Some(memory::measure()),
            "cache" => Some(cache_trace::measure(plan.rounds, plan.trace.as_deref())?),
            "postgres" => postgres::measure(plan.rounds, &plan.directory)?,
            "hot-key" => Some(hot_key::measure(plan.rounds, &plan.directory)?),
            _ => durable::measure(plan.rounds, &plan.directory)?,
        };
        if let Some(figures) = measured {
            save(part, figures, plan, &results)?;
        }
    }
    report::write(out, Path::new(RECORDED))?;
    println!("{}", out.join("BENCHMARKS.md").display());
    Ok(())
}

fn save(part: &str, mut figures: Figures, plan: &Plan, results: &Path) -> io::Result<()> {
    let quick = if plan.quick { " With --quick." } else { "" };
    let machine = format!("On {}{quick}", environment::machine());
    figures.notes.insert(0, machine);
    figures
        .notes
        .insert(1, format!("With {}.", environment::versions()));
    figures.save(&results.join(format!("{part}.csv")))
}
