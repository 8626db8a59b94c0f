//! From figures to a report: tables, charts, the rows in which a peer is ahead, and `BENCHMARKS.md`
//! around them.

use crate::figures::Figures;
use crate::table::{Better, Table};
use crate::{cache_trace, chart, durable, hot_key, postgres, scale, throughput};
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// The parts of the bench, by which their figures are stored and the template refers to them.
pub(crate) const PARTS: [&str; 8] = [
    "instructions",
    "throughput",
    "scale",
    "memory",
    "cache",
    "durable",
    "postgres",
    "hot-key",
];

/// The hand-written text, with a placeholder for each part.
const TEMPLATE: &str = include_str!("BENCHMARKS.template.md");

/// Returns whether less or more is better in the table of this title, and its number of decimals.
fn style(title: &str) -> (Better, usize) {
    match title {
        throughput::RATIO | scale::RATIO | scale::LARGE_RATIO | cache_trace::TIME => {
            (Better::Less, 2)
        }
        throughput::SPEEDUP | cache_trace::HITS | durable::SHARE | durable::SPEEDUP => {
            (Better::More, 2)
        }
        hot_key::SHARE | postgres::SHARE | postgres::SPEEDUP => (Better::More, 2),
        hot_key::LATENCY | hot_key::ATTEMPTS => (Better::Less, 4),
        hot_key::RATE | durable::RATE | postgres::RATE => (Better::More, 0),
        _ => (Better::Less, 0),
    }
}

/// Writes `BENCHMARKS.md` to `out`, with the figures and their charts in `out/results`. A part that
/// was not measured there is shown as it is recorded in `recorded`.
///
/// # Errors
///
/// Those of reading and writing files.
pub(crate) fn write(out: &Path, recorded: &Path) -> io::Result<()> {
    let results = out.join("results");
    let mut text = TEMPLATE.to_owned();
    let mut behind = Vec::new();
    for part in PARTS {
        let file = format!("{part}.csv");
        let mut figures = Figures::load(&results.join(&file))?;
        if figures.all.is_empty() {
            figures = Figures::load(&recorded.join(&file))?;
        }
        let section = write_part(part, &figures, &results)?;
        text = text.replace(&format!("{{{{{part}}}}}"), section.trim_end());
        // The ratios say the same as the absolute numbers that they are computed from.
        let tables = Table::all(&figures, style).into_iter();
        let absolute = [
            throughput::NANOS,
            scale::NANOS,
            scale::LARGE_NANOS,
            durable::RATE,
            postgres::RATE,
            hot_key::RATE,
        ];
        let tables = tables.filter(|table| !absolute.contains(&&*table.title));
        behind.extend(tables.flat_map(|table| table.rows_behind()));
    }
    let behind = if behind.is_empty() {
        "None.".to_owned()
    } else {
        format!(
            "| table | row | atomic-db | fastest peer |\n|---|---|---:|---:|\n{}",
            behind.join("\n")
        )
    };
    let text = text.replace("{{behind}}", &behind);
    fs::write(out.join("BENCHMARKS.md"), text)
}

/// Draws every table of `part`, and returns the part as Markdown.
fn write_part(part: &str, figures: &Figures, results: &Path) -> io::Result<String> {
    let mut text = String::new();
    if figures.all.is_empty() {
        text.push_str("Not measured.\n");
    }
    for note in &figures.notes {
        let _ = writeln!(text, "{note}  ");
    }
    for table in Table::all(figures, style) {
        let file = format!("{part}-{}.svg", slug(&table.title));
        fs::write(results.join(&file), chart::draw(&table))?;
        let _ = write!(
            text,
            "\n### {}\n\n{}\n![{}](results/{file})\n",
            capitalized(&table.title),
            table.markdown(),
            table.title
        );
    }
    Ok(text)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Returns `text` as a part of a file name.
fn slug(text: &str) -> String {
    let words: Vec<String> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}
