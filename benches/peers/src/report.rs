//! From figures to what is read: tables, pictures, the goals, the rows that are lost, and
//! `BENCHMARKS.md` around them.

use crate::figures::Figures;
use crate::{chart, counted, durable, memory, timed, trace};
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// The databases of this repository, as the tables name them.
const OURS: [&str; 3] = ["MemoryDb", "LruCache", "RedbDb"];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Better {
    Less,
    More,
}

/// One table, ready to be written or drawn.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) better: Better,
    decimals: usize,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) peer: String,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Table {
    /// All tables that `figures` come to, in the order in which they were added.
    fn all(figures: &Figures) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for figure in &figures.all {
            let place = tables.iter().position(|table| table.title == figure.table);
            let place = place.unwrap_or_else(|| {
                tables.push(Table::new(&figure.table));
                tables.len() - 1
            });
            let rows = &mut tables[place].rows;
            let at = rows.iter().position(|row| row.name == figure.row);
            let at = at.unwrap_or_else(|| {
                rows.push(Row {
                    name: figure.row.clone(),
                    cells: Vec::new(),
                });
                rows.len() - 1
            });
            rows[at].cells.push(Cell {
                peer: figure.peer.clone(),
                value: figure.value,
                low: figure.low,
                high: figure.high,
            });
        }
        tables
    }

    fn new(title: &str) -> Self {
        let (better, decimals) = match title {
            timed::RATIO | trace::TIME => (Better::Less, 2),
            timed::SPEEDUP | trace::HITS | durable::SHARE | durable::SPEEDUP => (Better::More, 2),
            durable::RATE => (Better::More, 0),
            _ => (Better::Less, 0),
        };
        Table {
            title: title.to_owned(),
            better,
            decimals,
            rows: Vec::new(),
        }
    }

    pub(crate) fn is_ours(&self, peer: &str) -> bool {
        OURS.contains(&peer)
    }

    pub(crate) fn number(&self, value: f64) -> String {
        let text = format!("{value:.*}", self.decimals);
        match text.split_once('.') {
            Some((whole, part)) => format!("{}.{part}", grouped(whole)),
            None => grouped(&text),
        }
    }

    fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for cell in self.rows.iter().flat_map(|row| &row.cells) {
            if !peers.contains(&cell.peer.as_str()) {
                peers.push(&cell.peer);
            }
        }
        peers
    }

    /// The table as Markdown; the best of each row is bold.
    fn markdown(&self) -> String {
        let peers = self.peers();
        let names: Vec<String> = peers.iter().map(|peer| marked(peer)).collect();
        let mut text = format!("| | {} |\n|---|", names.join(" | "));
        text.push_str(&"---:|".repeat(peers.len()));
        text.push('\n');
        for row in &self.rows {
            let best = row.best(self.better);
            let _ = write!(text, "| {} |", row.name);
            for peer in &peers {
                let Some(cell) = row.cell(peer) else {
                    text.push_str(" |");
                    continue;
                };
                let number = self.number(cell.value);
                let number = match best {
                    Some(best) if row.cells.len() > 1 && self.number(best.value) == number => {
                        format!("**{number}**")
                    }
                    _ => number,
                };
                let (low, high) = (self.number(cell.low), self.number(cell.high));
                let _ = match low == high {
                    true => write!(text, " {number} |"),
                    false => write!(text, " {number} ({low}–{high}) |"),
                };
            }
            text.push('\n');
        }
        text
    }

    /// The rows in which somebody else is ahead, each as a line.
    fn lost(&self) -> Vec<String> {
        let lost = |row: &Row| {
            let ours = row.cells.iter().find(|cell| self.is_ours(&cell.peer))?;
            let best = row.best(self.better)?;
            let (ours_text, best_text) = (self.number(ours.value), self.number(best.value));
            (!self.is_ours(&best.peer) && ours_text != best_text).then(|| {
                format!(
                    "| {} | {} | {ours_text} | {} {best_text} |",
                    self.title,
                    row.name,
                    marked(&best.peer)
                )
            })
        };
        self.rows.iter().filter_map(lost).collect()
    }
}

impl Row {
    fn cell(&self, peer: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.peer == peer)
    }

    fn best(&self, better: Better) -> Option<&Cell> {
        let cells = self.cells.iter();
        match better {
            Better::Less => cells.min_by(|a, b| a.value.total_cmp(&b.value)),
            Better::More => cells.max_by(|a, b| a.value.total_cmp(&b.value)),
        }
    }
}

/// What a part's figures are kept under, and where the template has them.
pub(crate) const PARTS: [&str; 5] = ["counted", "timed", "memory", "cache", "durable"];

/// The hand-written text, with a place for each part.
const TEMPLATE: &str = include_str!("BENCHMARKS.template.md");

/// Draws every table of `part`, and returns the part as Markdown.
fn write_part(part: &str, figures: &Figures, results: &Path) -> io::Result<String> {
    let mut text = String::new();
    if figures.all.is_empty() {
        text.push_str("Not measured yet.\n");
    }
    for note in &figures.notes {
        let _ = writeln!(text, "{note}  ");
    }
    for table in Table::all(figures) {
        let file = format!("{part}-{}.svg", slug(&table.title));
        fs::write(results.join(&file), chart::draw(&table))?;
        let _ = write!(
            text,
            "\n### {}\n\n{}\n![{}](results/{file})\n",
            capital(&table.title),
            table.markdown(),
            table.title
        );
    }
    Ok(text)
}

/// Writes the pictures, `BENCHMARKS.md` and a line of `README.md` from all that `results` holds.
///
/// # Errors
///
/// Those of reading and writing files.
pub(crate) fn write(results: &Path, document: &Path, readme: &Path) -> io::Result<()> {
    for entry in fs::read_dir(results)? {
        let path = entry?.path();
        // Of a table that is no longer, no picture stays.
        if path.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(path)?;
        }
    }
    let mut text = TEMPLATE.to_owned();
    let mut all = Figures::default();
    let mut lost = Vec::new();
    for part in PARTS {
        let figures = Figures::load(&results.join(format!("{part}.csv")))?;
        let section = write_part(part, &figures, results)?;
        text = text.replace(&format!("{{{{{part}}}}}"), section.trim_end());
        // The ratios say the same as the numbers that they are of.
        let tables = Table::all(&figures).into_iter();
        let tables = tables.filter(|table| ![timed::NANOS, durable::RATE].contains(&&*table.title));
        lost.extend(tables.flat_map(|table| table.lost()));
        all.all.extend(figures.all);
    }
    let lost = match lost.is_empty() {
        true => "None.".to_owned(),
        false => format!(
            "| table | row | ours | ahead |\n|---|---|---:|---:|\n{}",
            lost.join("\n")
        ),
    };
    let goals = goals(&all);
    fs::write(results.join("goals.md"), &goals)?;
    let text = text
        .replace("{{goals}}", goals.trim_end())
        .replace("{{lost}}", &lost);
    fs::write(document, text)?;
    match headline(&all) {
        Some(line) => write_line(readme, HEADLINE, &line),
        None => Ok(()),
    }
}

/// How the line of `README.md` begins.
const HEADLINE: &str = "In the last run, ";

/// Writes `line` over the line of the file that has the same `beginning`.
fn write_line(file: &Path, beginning: &str, line: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let lines = text.lines().map(|old| match old.starts_with(beginning) {
        true => line,
        false => old,
    });
    fs::write(file, lines.collect::<Vec<_>>().join("\n") + "\n")
}

/// The figures in one sentence, if all were measured.
fn headline(figures: &Figures) -> Option<String> {
    let small = |row, peer| small(figures, row, peer);
    let get = ratio(small(GET, "MemoryDb"), small(GET, "DashMap"))?;
    let set = ratio(small(SET, "MemoryDb"), small(SET, "DashMap"))?;
    let hit = ratio(small(counted::HIT, "LruCache"), small(counted::HIT, "moka"))?;
    let [one, two] = [1, 2].map(|threads| ahead(figures, threads));
    let durable = ratio(Some(1.0), fastest(figures, durable::GUARDED, 8))?;
    Some(format!(
        "{HEADLINE}`get` took {get:.2} of DashMap's instructions, `set` {set:.2} of its insert's, and a hit of `LruCache` {hit:.2} of moka's; a transfer between two accounts was {:.1} times as fast as the fastest transactional peer's on one thread and {:.1} times on two; and eight threads committed {durable:.1} times as much to a file as the fastest of redb, SQLite and fjall.",
        one?, two?
    ))
}

const GET: &str = "get hit";
const SET: &str = "set of an existing key";

fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    Some(above? / below?)
}

/// Instructions where there are few items.
fn small(figures: &Figures, row: &str, peer: &str) -> Option<f64> {
    figures.get(&counted::table(counted::SHAPES[0]), row, peer)
}

/// How many times our time the fastest transactional peer takes for a transfer.
fn ahead(figures: &Figures, threads: usize) -> Option<f64> {
    let row = timed::at(timed::TRANSFER, threads);
    let of = |peer: &&str| figures.get(timed::RATIO, &row, peer);
    let peers = ["surrealmx", "redb in memory", "SQLite :memory:"];
    let ratios: Option<Vec<f64>> = peers.iter().map(of).collect();
    ratios.map(|ratios| ratios.into_iter().fold(f64::INFINITY, f64::min))
}

/// What part of our commits the fastest peer makes.
fn fastest(figures: &Figures, commit: &str, threads: usize) -> Option<f64> {
    let row = timed::at(commit, threads);
    let of = |peer: &&str| figures.get(durable::SHARE, &row, peer);
    let shares: Option<Vec<f64>> = durable::PEERS.iter().map(of).collect();
    shares.map(|shares| shares.into_iter().fold(0.0, f64::max))
}

/// What is wanted, what was measured, and whether that is enough.
pub(crate) fn goals(figures: &Figures) -> String {
    let shapes = counted::SHAPES.map(counted::table);
    let counted = |table: &str, row: &str, peer: &str| figures.get(table, row, peer);
    let small = |row: &str, peer: &str| small(figures, row, peer);
    let (get, set, transfer) = (GET, SET, "transfer");
    let query = "query of 100 items";
    let [many, single] = memory::SHAPES.map(|shape| shape.to_string());
    let bytes = |row: &str| {
        let of = |peer| figures.get(memory::TABLE, row, peer);
        ratio(of("MemoryDb"), of("DashMap"))
    };
    let speedup = |row: &str, peer: &str| figures.get(timed::SPEEDUP, &timed::at(row, 2), peer);
    let ahead = |threads| ahead(figures, threads);
    let gain = |commit: &str| figures.get(durable::SPEEDUP, &timed::at(commit, 8), "RedbDb");
    let share =
        |row: &str, threads, peer| figures.get(durable::SHARE, &timed::at(row, threads), peer);
    let fastest = |commit, threads| fastest(figures, commit, threads);
    let purge = counted::PURGED.map(|(row, _)| figures.get(counted::PURGE, row, "MemoryDb"));

    let mut text = String::from("| figure | goal | measured | reached |\n|---|---|---:|---|\n");
    let mut goal = |figure: &str, goal: &str, value: Option<f64>, limit: Limit| {
        let (measured, reached) = match value {
            None => ("not measured".to_owned(), ""),
            Some(value) => (
                match value >= 100.0 {
                    true => format!("{value:.0}"),
                    false => format!("{value:.2}"),
                },
                if limit.holds(value) { "yes" } else { "**no**" },
            ),
        };
        let _ = writeln!(text, "| {figure} | {goal} | {measured} | {reached} |");
    };
    goal(
        "get hit, instructions",
        "at most 0.85 of DashMap's",
        ratio(small(get, "MemoryDb"), small(get, "DashMap")),
        Limit::Most(0.85),
    );
    goal(
        "get hit, 1 M items in one partition against 1 k",
        "at most 1.05",
        ratio(counted(&shapes[2], get, "MemoryDb"), small(get, "MemoryDb")),
        Limit::Most(1.05),
    );
    goal(
        "set of an existing key, new item included, instructions",
        "at most DashMap's insert",
        ratio(small(set, "MemoryDb"), small(set, "DashMap")),
        Limit::Most(1.0),
    );
    goal(
        "transfer, instructions",
        "at most 2,500",
        small(transfer, "MemoryDb"),
        Limit::Most(2_500.0),
    );
    goal(
        "transfer, instructions",
        "under 0.2 of surrealmx's",
        ratio(small(transfer, "MemoryDb"), small(transfer, "surrealmx")),
        Limit::Below(0.2),
    );
    goal(
        "transfer, time of the fastest transactional peer, 1 thread",
        "over 1 of ours",
        ahead(1),
        Limit::Above(1.0),
    );
    goal(
        "transfer, time of the fastest transactional peer, 2 threads",
        "over 1 of ours",
        ahead(2),
        Limit::Above(1.0),
    );
    goal(
        "cache hit, instructions",
        "at most those of `Mutex<lru::LruCache>`",
        ratio(
            small(counted::HIT, "LruCache"),
            small(counted::HIT, "Mutex<lru>"),
        ),
        Limit::Most(1.0),
    );
    goal(
        "cache hit, instructions",
        "at most 0.25 of moka's",
        ratio(small(counted::HIT, "LruCache"), small(counted::HIT, "moka")),
        Limit::Most(0.25),
    );
    goal(
        "query of 100 items, instructions",
        "at most 1.2 of a `BTreeMap` range with 100 reference counts",
        ratio(small(query, "MemoryDb"), small(query, "Mutex<BTreeMap>")),
        Limit::Most(1.2),
    );
    goal(
        "bytes per item, 1 M items in 1,000 partitions",
        "at most 1.3 of DashMap's",
        bytes(&many),
        Limit::Most(1.3),
    );
    goal(
        "bytes per item, 1 M partitions of one item",
        "at most 2 of DashMap's",
        bytes(&single),
        Limit::Most(2.0),
    );
    goal(
        "speed-up from 1 to 2 threads, uniform keys, 95 % reads, against DashMap's",
        "at least 1",
        ratio(
            speedup(timed::UNIFORM_READS, "MemoryDb"),
            speedup(timed::UNIFORM_READS, "DashMap"),
        ),
        Limit::Least(1.0),
    );
    goal(
        "one hot partition, 2 threads reading it, against 1",
        "at least 1",
        speedup(timed::HOT, "MemoryDb"),
        Limit::Least(1.0),
    );
    goal(
        "purge of 100 expired, among 1 M live against 1 k, instructions",
        "at most 2",
        ratio(purge[1], purge[0]),
        Limit::Most(2.0),
    );
    for commit in [durable::ONE, durable::GUARDED] {
        goal(
            &format!("durable {commit}, 8 threads against 1"),
            "at least 4",
            gain(commit),
            Limit::Least(4.0),
        );
        for threads in [8, 32] {
            goal(
                &format!(
                    "durable {commit}, the fastest of redb, SQLite and fjall, {threads} threads"
                ),
                "under 1 of ours",
                fastest(commit, threads),
                Limit::Below(1.0),
            );
        }
        goal(
            &format!("durable {commit}, against redb, 1 thread"),
            "at least 0.9",
            ratio(Some(1.0), share(commit, 1, "redb")),
            Limit::Least(0.9),
        );
    }
    goal(
        "point read from a file, time against redb's with the same decoding",
        "at most 1.5",
        share(durable::READ, 1, "redb"),
        Limit::Most(1.5),
    );
    text
}

enum Limit {
    Most(f64),
    Least(f64),
    Below(f64),
    Above(f64),
}

impl Limit {
    fn holds(&self, value: f64) -> bool {
        match self {
            Limit::Most(limit) => value <= *limit,
            Limit::Least(limit) => value >= *limit,
            Limit::Below(limit) => value < *limit,
            Limit::Above(limit) => value > *limit,
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// A whole number with its digits in threes.
pub(crate) fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A peer's name in Markdown, which would take `<...>` for a tag.
fn marked(peer: &str) -> String {
    match peer.contains('<') {
        true => format!("`{peer}`"),
        false => peer.to_owned(),
    }
}

/// A part of a file's name.
fn slug(text: &str) -> String {
    let words: Vec<String> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}
