//! atomic-db measured against its peers: the same work, in one run.

mod allocator;
mod caches;
mod callgrind;
mod chart;
mod counted;
mod durable;
mod figures;
mod keys;
mod machine;
mod memory;
mod report;
mod stores;
mod timed;
mod trace;
mod zipf;

use figures::Figures;
use keys::Shape;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

const USAGE: &str = "\
Usage: cargo run --release --manifest-path benches/peers/Cargo.toml [-- [PART...] [OPTION...]]

Measures atomic-db and its peers, and writes the figures and pictures to benches/results/, what they
say to benches/BENCHMARKS.md, and the shortest of it to a line of README.md. Without a PART all are measured; of the others the figures of their
last run are shown.

Parts:
  counted   instructions per operation, under valgrind's callgrind
  timed     time per operation, as ratios, by 1, 2 and all hardware threads
  memory    bytes per item held
  cache     hits and time of the caches on a trace
  durable   commits per second that outlive a power cut, by 1, 2, 8 and 32 threads, and reads
  report    nothing new: writes everything again from the figures that are there

Or, to see what an operation is spent on among 1 k items: profile NAME OPERATION,
such as profile MemoryDb 'get hit'

Options:
  --quick          counts up to 100 k items, and takes 5 rounds
  --rounds N       takes each time N times; 21 otherwise
  --directory DIR  has the files of `durable` in DIR; in the system's temporary directory otherwise
";

/// Where results go, beside this package.
const BENCHES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

struct Plan {
    parts: Vec<&'static str>,
    quick: bool,
    rounds: usize,
    /// Where files are made and removed.
    directory: PathBuf,
}

impl Plan {
    fn new(arguments: &[&str]) -> Result<Self, String> {
        let mut plan = Plan {
            parts: Vec::new(),
            quick: false,
            rounds: 21,
            directory: std::env::temp_dir(),
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
                    plan.directory =
                        directory.ok_or("--directory takes a directory that is there")?;
                }
                "report" => only_report = true,
                other => match report::PARTS.iter().find(|part| **part == other) {
                    Some(part) => plan.parts.push(part),
                    None => return Err(format!("there is no part and no option {other:?}")),
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
    if let [counted::CHILD, name, items, partitions] = arguments[..] {
        let number = |text: &str| text.parse().expect("this program wrote a number");
        counted::child(name, Shape::new(number(items), number(partitions)));
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
        return match counted::profile(name, operation) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("there is no profile: {error}");
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
    let benches = Path::new(BENCHES);
    let results = benches.join("results");
    fs::create_dir_all(&results)?;
    for part in &plan.parts {
        let measured = match *part {
            "counted" => match callgrind::version() {
                Some(version) => Some(counted::measure(plan.quick, &version)?),
                None => {
                    eprintln!("counted: left out, for valgrind cannot be run on this machine");
                    None
                }
            },
            "timed" => Some(timed::measure(plan.rounds)),
            "memory" => Some(memory::measure()),
            "cache" => Some(trace::measure(plan.rounds)),
            _ => durable::measure(plan.rounds, &plan.directory)?,
        };
        if let Some(figures) = measured {
            save(part, figures, plan, &results)?;
        }
    }
    report::write(
        &results,
        &benches.join("BENCHMARKS.md"),
        &benches.join("../README.md"),
    )?;
    print!("{}", fs::read_to_string(results.join("goals.md"))?);
    Ok(())
}

fn save(part: &str, mut figures: Figures, plan: &Plan, results: &Path) -> io::Result<()> {
    let cut = if plan.quick {
        " In its quick form."
    } else {
        ""
    };
    let machine = format!("On {}{cut}", machine::machine());
    figures.notes.insert(0, machine);
    figures
        .notes
        .insert(1, format!("With {}.", machine::versions()));
    figures.save(&results.join(format!("{part}.csv")))
}
