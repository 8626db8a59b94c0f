//! Counts real flights from several threads without losing one: each flight is a transaction over
//! two airports and the route between them, and at the end every total is checked against a plain
//! count of the same file.
//!
//! ```sh
//! cargo run --release --example flights                 # 5,000 flights that come with the source
//! cargo run --release --example flights -- other.csv
//! cargo run --release --features dynamodb --example flights -- --dynamodb TABLE [--endpoint URL]
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Item, MemoryDb, Query, Retry};
use csv::{ByteRecord, ReaderBuilder, Terminator, Trim};
use indicatif::{ProgressBar, ProgressStyle};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::{FromStr, from_utf8};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: flights [FILE] [--dynamodb TABLE [--endpoint URL]]

Books every flight of FILE as one transaction, from several threads, checks all totals, and prints
the busiest airports. FILE is CSV with the header `date,delay,distance,origin,destination`; without
it, the flights in examples/data/flights-5k.csv are booked.

They are booked in memory; with --dynamodb, in a table of Amazon DynamoDB, which is created if it is
not there, with the region and credentials that the environment provides. --endpoint is the URL of
another server that speaks DynamoDB's protocol.

Exit codes: 0 done, 1 the totals are wrong or booking failed, 2 wrong arguments or input.
";

const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-5k.csv");

const HEADER: [&str; 5] = ["date", "delay", "distance", "origin", "destination"];

fn main() -> ExitCode {
    let done = match Command::from_args(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(|out| out.write_all(USAGE.as_bytes())),
        Ok(Command::Book(path, Store::Memory)) => book_file(&path, &MemoryDb::new(), &quick()),
        Ok(Command::Book(path, Store::DynamoDb { table, endpoint })) => {
            book_in_dynamodb(&path, table, endpoint)
        }
        Err(failure) => Err(failure),
    };
    let (message, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(message)) => (message, 2),
        Err(Failure::Booking(message)) => (message, 1),
        // Whoever reads has read enough, as in `flights | head -1`.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (format!("cannot write the result: {error}"), 1),
    };
    complain(format_args!("flights: {message}"));
    ExitCode::from(code)
}

enum Command {
    Help,
    Book(PathBuf, Store),
}

/// Where the flights are booked.
enum Store {
    Memory,
    DynamoDb {
        table: String,
        endpoint: Option<String>,
    },
}

impl Command {
    fn from_args(mut args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let usage = |problem: &str, arg: &OsStr| {
            let arg = arg.to_string_lossy();
            Failure::Input(format!("{problem} {arg:?}; --help tells what is possible"))
        };
        let (mut path, mut table, mut endpoint) = (None, None, None);
        while let Some(arg) = args.next() {
            let option = match arg.to_str() {
                Some("--help" | "-h") => return Ok(Command::Help),
                Some("--dynamodb") => Some(&mut table),
                Some("--endpoint") => Some(&mut endpoint),
                _ => None,
            };
            if let Some(option) = option {
                let value = args.next().and_then(|value| value.into_string().ok());
                let value = value.filter(|value| !value.is_empty());
                *option = Some(value.ok_or_else(|| usage("a value is missing after", &arg))?);
                continue;
            }
            if arg.as_encoded_bytes().starts_with(b"-") {
                return Err(usage("unknown option", &arg));
            }
            if path.is_some() {
                return Err(usage("one file is enough, and here is another:", &arg));
            }
            path = Some(PathBuf::from(arg));
        }
        let store = match (table, endpoint) {
            (Some(table), endpoint) => Store::DynamoDb { table, endpoint },
            (None, None) => Store::Memory,
            (None, Some(endpoint)) => {
                return Err(usage("no --dynamodb goes with", OsStr::new(&endpoint)));
            }
        };
        Ok(Command::Book(
            path.unwrap_or_else(|| DEFAULT_FILE.into()),
            store,
        ))
    }
}

/// Why there is no result.
enum Failure {
    /// The arguments or the file are wrong.
    Input(String),
    /// The database failed, or is not what it should be.
    Booking(String),
    /// The result could not be printed.
    Output(io::Error),
}

#[cfg(feature = "dynamodb")]
fn book_in_dynamodb(path: &Path, table: String, endpoint: Option<String>) -> Result<(), Failure> {
    let mut builder = atomic_db::DynamoDb::<Tally>::builder(&table).create_table(true);
    if let Some(endpoint) = endpoint {
        // Such a server takes any region and credentials, but it wants some.
        builder = builder.endpoint_url(endpoint);
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            builder = builder.region("local").credentials("local", "local", None);
        }
    }
    let failed = |error| Failure::Booking(format!("{table}: {}", with_sources(&error)));
    let db = builder.open().map_err(failed)?;
    let booked = db
        .page(&Query::new(AIRPORTS).limit(1), None)
        .map_err(failed)?;
    if !booked.items.is_empty() {
        return Err(Failure::Input(format!(
            "there are flights in the table {table:?} already; give one that is new"
        )));
    }
    // A transaction takes milliseconds, and so should the first pause after a race.
    let patient = Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_millis(2), Duration::from_millis(200));
    book_file(path, &db, &patient)
}

#[cfg(not(feature = "dynamodb"))]
fn book_in_dynamodb(_: &Path, _: String, _: Option<String>) -> Result<(), Failure> {
    Err(Failure::Input(
        "--dynamodb needs the feature `dynamodb`: cargo run --release --features dynamodb --example flights".to_owned(),
    ))
}

fn book_file<D>(path: &Path, db: &D, retry: &Retry) -> Result<(), Failure>
where
    D: AtomicDb<Data = Tally> + Sync,
{
    let (flights, skipped) = read_flights(path)
        .map_err(|problem| Failure::Input(format!("cannot use {path:?}: {problem}")))?;

    let began = Instant::now();
    let races = book_all(db, &flights, retry).map_err(|error| {
        let error = with_sources(&error);
        Failure::Booking(format!("booking failed: {error}"))
    })?;
    let took = began.elapsed();

    let totals = check(db, &flights).map_err(Failure::Booking)?;
    print(|out| {
        print_busiest(out, &totals)?;
        let routes = totals.keys().filter(|(pk, _)| pk != AIRPORTS).count();
        let rate = flights.len() as f64 / took.as_secs_f64().max(f64::EPSILON);
        writeln!(out)?;
        writeln!(out, "flights booked      {:>9}", flights.len())?;
        writeln!(out, "flights per second  {rate:>9.0}")?;
        writeln!(out, "routes              {routes:>9}")?;
        writeln!(out, "races met           {races:>9}")?;
        writeln!(out, "lines skipped       {skipped:>9}")
    })
}

// Reading the file

struct Flight {
    delay: i32,
    distance: u32,
    origin: String,
    destination: String,
}

/// The flights in the file, and how many lines were skipped because they are none. The error is a
/// sentence without the file's name.
fn read_flights(path: &Path) -> Result<(Vec<Flight>, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader = ReaderBuilder::new()
        .flexible(true)
        .quoting(false)
        .trim(Trim::All)
        // A "\r" before it is trimmed.
        .terminator(Terminator::Any(b'\n'))
        // Now that the last line ends like the others, the reader is always one line past the
        // record that it has just read. (A record's own position is that of blank lines before it.)
        .from_reader(file.chain(&b"\n"[..]));

    let header = reader.byte_headers().map_err(|error| error.to_string())?;
    if header.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if *header != HEADER[..] {
        let expected = HEADER.join(",");
        return Err(format!("the first line must be `{expected}`"));
    }

    let mut flights = Vec::new();
    let mut skipped = 0;
    let mut record = ByteRecord::new();
    while reader
        .read_byte_record(&mut record)
        .map_err(|error| error.to_string())?
    {
        let line = reader.position().line() - 1;
        let blank = record.len() == 1 && record[0].is_empty();
        if blank {
            continue;
        }
        match Flight::from_record(&record) {
            Ok(flight) => flights.push(flight),
            Err(problem) => {
                skipped += 1;
                complain(format_args!("line {line} is skipped: {problem}"));
            }
        }
    }
    Ok((flights, skipped))
}

impl Flight {
    fn from_record(record: &ByteRecord) -> Result<Self, String> {
        let mut fields = [""; HEADER.len()];
        if record.len() != fields.len() {
            let (got, expected) = (record.len(), fields.len());
            return Err(format!("its number of fields is {got}, not {expected}"));
        }
        for ((field, name), bytes) in fields.iter_mut().zip(HEADER).zip(record) {
            *field = from_utf8(bytes).map_err(|_| format!("its {name} is not UTF-8"))?;
            if field.is_empty() {
                return Err(format!("its {name} is empty"));
            }
        }
        let [date, delay, distance, origin, destination] = fields;
        if !is_date(date) {
            return Err(format!(
                "its date {date:?} is no minute written as `YYYY/MM/DD HH:MM`"
            ));
        }
        Ok(Flight {
            delay: number("delay", delay)?,
            distance: number("distance", distance)?,
            origin: origin.to_owned(),
            destination: destination.to_owned(),
        })
    }
}

fn number<N: FromStr<Err: Display>>(name: &str, text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|error| format!("its {name} {text:?} is wrong: {error}"))
}

/// Whether `text` is `YYYY/MM/DD HH:MM`, and there was such a minute.
fn is_date(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000/00/00 00:00";
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        mark => byte == *mark,
    };
    if text.len() != SHAPE.len() || !text.bytes().zip(SHAPE).all(fits) {
        return false;
    }
    // It is all ASCII now: it may be sliced anywhere, and every slice is a number.
    let part = |from: usize, to: usize| text[from..to].parse().unwrap_or(u32::MAX);
    let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day) && part(11, 13) < 24 && part(14, 16) < 60
}

// Booking

/// What is known of an airport or a route. A flight that comes back to where it began counts at
/// its airport twice: it departs and it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Tally {
    flights: u64,
    /// In minutes; early flights count against late ones.
    delay: i64,
    /// In miles.
    distance: u64,
}

impl Tally {
    fn add(&mut self, flight: &Flight) {
        self.flights += 1;
        self.delay += i64::from(flight.delay);
        self.distance += u64::from(flight.distance);
    }

    fn mean_delay(&self) -> f64 {
        match self.flights {
            0 => 0.0,
            flights => self.delay as f64 / flights as f64,
        }
    }
}

/// The partition of all airports; their sort keys are their codes.
const AIRPORTS: &str = "airport";

/// The partition of all routes from an airport; their sort keys are their destinations.
fn routes_from(airport: &str) -> String {
    format!("routes from {airport}")
}

impl Flight {
    /// The partition keys and sort keys of the tallies that this flight changes.
    fn tallies(&self) -> [(String, &str); 3] {
        [
            (AIRPORTS.to_owned(), &self.origin),
            (AIRPORTS.to_owned(), &self.destination),
            (routes_from(&self.origin), &self.destination),
        ]
    }

    /// Adds this flight to its three tallies, to all or none, and returns how many races that
    /// took.
    fn book<D: AtomicDb<Data = Tally>>(&self, db: &D, retry: &Retry) -> atomic_db::Result<u64> {
        let tallies = self.tallies();
        let mut runs = 0;
        db.transact_with(retry, |tx| {
            runs += 1;
            // Each tally has a lock of its own beside it, so that flights meet only where they
            // share an airport.
            for (pk, sk) in &tallies {
                tx.lock((format!("lock of {pk}").as_str(), *sk))?;
            }
            // One after the other, and not all reads first: from an airport to itself, the second
            // read sees what the first time round wrote.
            for (pk, sk) in &tallies {
                let item = tx.get((pk.as_str(), *sk))?;
                let mut tally = item.and_then(Item::into_data).unwrap_or_default();
                tally.add(self);
                tx.set(Item::new(pk, sk, tally))?;
            }
            Ok(())
        })?;
        Ok(runs - 1)
    }
}

/// In memory, a transaction takes microseconds, and so should the first pause after a race. Whoever
/// loses a race lost it to a flight that is booked: a few attempts are enough, and these are a bound.
fn quick() -> Retry {
    Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_micros(20), Duration::from_millis(20))
}

/// Books all flights from several threads, and returns how many races were met.
fn book_all<D>(db: &D, flights: &[Flight], retry: &Retry) -> atomic_db::Result<u64>
where
    D: AtomicDb<Data = Tally> + Sync,
{
    let threads = thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let progress = progress_bar(flights.len());

    let next = AtomicUsize::new(0);
    let work = || -> atomic_db::Result<u64> {
        let mut races = 0;
        while let Some(flight) = flights.get(next.fetch_add(1, Ordering::Relaxed)) {
            races += flight.book(db, retry).inspect_err(|_| {
                // The other threads find nothing more to do.
                next.store(flights.len(), Ordering::Relaxed);
            })?;
            progress.inc(1);
        }
        Ok(races)
    };
    let races = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .sum()
    });
    progress.finish_and_clear();
    races
}

/// A progress bar on stderr if somebody is there to watch it.
fn progress_bar(flights: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(flights as u64);
    match ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} flights") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

// Checking

/// All tallies by partition key and sort key.
type Totals = BTreeMap<(String, String), Tally>;

/// The totals in the database, if they are those of a single-threaded count without one. The error
/// names the first difference.
fn check<D: AtomicDb<Data = Tally>>(db: &D, flights: &[Flight]) -> Result<Totals, String> {
    let mut expected = Totals::new();
    for flight in flights {
        for (pk, sk) in flight.tallies() {
            expected.entry((pk, sk.to_owned())).or_default().add(flight);
        }
    }
    let found = read_totals(db).map_err(|error| {
        let error = with_sources(&error);
        format!("the totals cannot be read back: {error}")
    })?;
    for key in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected != found {
            return Err(format!(
                "the totals are wrong: for {key:?} there should be {expected:?}, and there is {found:?}"
            ));
        }
    }
    Ok(found)
}

fn read_totals<D: AtomicDb<Data = Tally>>(db: &D) -> atomic_db::Result<Totals> {
    let mut totals = Totals::new();
    let mut take = |item: Item<Tally>| {
        if let Some(tally) = item.data() {
            totals.insert((item.pk().to_owned(), item.sk().to_owned()), *tally);
        }
    };
    for airport in db.stream(Query::new(AIRPORTS)) {
        let airport = airport?;
        // A stream holds nothing of the database, so its loop may begin another one.
        for route in db.stream(Query::new(routes_from(airport.sk()))) {
            take(route?);
        }
        take(airport);
    }
    Ok(totals)
}

// Printing

fn print_busiest(out: &mut dyn Write, totals: &Totals) -> io::Result<()> {
    let mut airports: Vec<(&str, &Tally)> = totals
        .iter()
        .filter(|((pk, _), _)| pk == AIRPORTS)
        .map(|((_, code), tally)| (code.as_str(), tally))
        .collect();
    airports.sort_by_key(|(code, tally)| (Reverse(tally.flights), *code));
    airports.truncate(10);

    let names = airports.iter().map(|(code, _)| code.chars().count());
    let width = names.max().unwrap_or(0).max("airport".len());
    writeln!(out, "{:width$}  flights  mean delay (min)", "airport")?;
    for (code, tally) in airports {
        let Tally { flights, .. } = tally;
        // Adding zero makes a rounded -0.0 a plain 0.0.
        let delay = (tally.mean_delay() * 10.0).round() / 10.0 + 0.0;
        writeln!(out, "{code:width$}  {flights:>7}  {delay:>16.1}")?;
    }
    Ok(())
}

/// Runs `write` on stdout. Unlike `println!`, a closed pipe is an error here and no panic.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// A line on stderr. If that is closed, there is nobody to tell.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error of the database is a sentence without its source.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}
