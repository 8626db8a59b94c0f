//! Books real flights from several threads and loses none of them. Each flight is one transaction
//! over two airports and the route between them. At the end, every total is checked against a
//! single-threaded count of the same file.
//!
//! ```sh
//! cargo run --release --example flights                 # the 5,000 flights of the repository
//! cargo run --release --example flights -- other.csv
//! cargo run --release --features postgres --example flights -- --postgres URL
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
Usage: flights [FILE] [--postgres URL | --dynamodb TABLE [--endpoint URL]]

Books every flight of FILE as one transaction, from several threads, checks all totals, and prints
the busiest airports, the throughput and the number of conflicts. FILE is CSV with the header
`date,delay,distance,origin,destination`. The default is examples/data/flights-5k.csv.

The flights are booked in memory; or with --postgres in the table `flights` of the PostgreSQL database
at URL; or with --dynamodb in a table of Amazon DynamoDB. The table is created if it does not exist.
For DynamoDB, the environment provides region and credentials, and --endpoint is the URL of another
server that speaks its protocol.

Exit codes: 0 success, 1 wrong totals or a failed transaction, 2 wrong arguments or input.
";

const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-5k.csv");

const HEADER: [&str; 5] = ["date", "delay", "distance", "origin", "destination"];

fn main() -> ExitCode {
    let result = match Command::from_args(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(|out| out.write_all(USAGE.as_bytes())),
        Ok(Command::Book(path, Store::Memory)) => {
            book_file(&path, &MemoryDb::new(), &memory_retry())
        }
        Ok(Command::Book(path, Store::Postgres { url })) => book_in_postgres(&path, &url),
        Ok(Command::Book(path, Store::DynamoDb { table, endpoint })) => {
            book_in_dynamodb(&path, table, endpoint)
        }
        Err(failure) => Err(failure),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(message)) => (message, 2),
        Err(Failure::Booking(message)) => (message, 1),
        // The reader of the pipe has closed it, as in `flights | head -1`.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (format!("cannot write the result: {error}"), 1),
    };
    print_error(format_args!("flights: {message}"));
    ExitCode::from(code)
}

enum Command {
    Help,
    Book(PathBuf, Store),
}

/// The database in which the flights are booked.
enum Store {
    Memory,
    Postgres {
        url: String,
    },
    DynamoDb {
        table: String,
        endpoint: Option<String>,
    },
}

impl Command {
    fn from_args(mut args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let usage = |problem: &str, arg: &OsStr| {
            let arg = arg.to_string_lossy();
            Failure::Input(format!("{problem} {arg:?}; see --help"))
        };
        let (mut path, mut url, mut table, mut endpoint) = (None, None, None, None);
        while let Some(arg) = args.next() {
            let option = match arg.to_str() {
                Some("--help" | "-h") => return Ok(Command::Help),
                Some("--postgres") => Some(&mut url),
                Some("--dynamodb") => Some(&mut table),
                Some("--endpoint") => Some(&mut endpoint),
                _ => None,
            };
            if let Some(option) = option {
                let value = args.next().and_then(|value| value.into_string().ok());
                let value = value.filter(|value| !value.is_empty());
                *option = Some(value.ok_or_else(|| usage("missing value after", &arg))?);
                continue;
            }
            if arg.as_encoded_bytes().starts_with(b"-") {
                return Err(usage("unknown option", &arg));
            }
            if path.is_some() {
                return Err(usage("unexpected second file", &arg));
            }
            path = Some(PathBuf::from(arg));
        }
        let store = match (url, table, endpoint) {
            (Some(url), None, None) => Store::Postgres { url },
            (None, Some(table), endpoint) => Store::DynamoDb { table, endpoint },
            (None, None, None) => Store::Memory,
            (Some(_), Some(other), _) | (Some(_), None, Some(other)) => {
                return Err(usage("--postgres excludes", OsStr::new(&other)));
            }
            (None, None, Some(endpoint)) => {
                return Err(usage(
                    "--dynamodb is missing for the endpoint",
                    OsStr::new(&endpoint),
                ));
            }
        };
        Ok(Command::Book(
            path.unwrap_or_else(|| DEFAULT_FILE.into()),
            store,
        ))
    }
}

/// The reason why there is no result.
enum Failure {
    /// The arguments or the file are invalid.
    Input(String),
    /// The database failed, or its totals are wrong.
    Booking(String),
    /// The result could not be printed.
    Output(io::Error),
}

#[cfg(feature = "postgres")]
fn book_in_postgres(path: &Path, url: &str) -> Result<(), Failure> {
    let failed = |error| Failure::Booking(with_sources(&error));
    let builder = atomic_db::PostgresDb::<Tally>::builder().table("flights");
    book_in_new_table(path, &builder.connect(url).map_err(failed)?, "flights")
}

#[cfg(not(feature = "postgres"))]
fn book_in_postgres(_: &Path, _: &str) -> Result<(), Failure> {
    Err(Failure::Input(
        "--postgres requires the feature `postgres`: cargo run --release --features postgres --example flights".to_owned(),
    ))
}

#[cfg(feature = "dynamodb")]
fn book_in_dynamodb(path: &Path, table: String, endpoint: Option<String>) -> Result<(), Failure> {
    let mut builder = atomic_db::DynamoDb::<Tally>::builder(&table).create_table(true);
    if let Some(endpoint) = endpoint {
        // Such a server accepts any region and credentials, but requires some.
        builder = builder.endpoint_url(endpoint);
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            builder = builder.region("local").credentials("local", "local", None);
        }
    }
    let failed = |error| Failure::Booking(format!("{table}: {}", with_sources(&error)));
    let db = builder.open().map_err(failed)?;
    book_in_new_table(path, &db, &table)
}

#[cfg(not(feature = "dynamodb"))]
fn book_in_dynamodb(_: &Path, _: String, _: Option<String>) -> Result<(), Failure> {
    Err(Failure::Input(
        "--dynamodb requires the feature `dynamodb`: cargo run --release --features dynamodb --example flights".to_owned(),
    ))
}

/// Books the flights in a table of a server, if it contains none.
#[cfg(any(feature = "postgres", feature = "dynamodb"))]
fn book_in_new_table<D>(path: &Path, db: &D, table: &str) -> Result<(), Failure>
where
    D: AtomicDb<Data = Tally> + Sync,
{
    let booked = db.page(&Query::new(AIRPORTS).limit(1), None);
    let booked =
        booked.map_err(|error| Failure::Booking(format!("{table}: {}", with_sources(&error))))?;
    if !booked.items.is_empty() {
        return Err(Failure::Input(format!(
            "the table {table:?} already contains flights; drop it, or use a new one"
        )));
    }
    // A transaction takes milliseconds, and so should the first pause after a conflict.
    let retry = Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_millis(2), Duration::from_millis(200));
    book_file(path, db, &retry)
}

fn book_file<D>(path: &Path, db: &D, retry: &Retry) -> Result<(), Failure>
where
    D: AtomicDb<Data = Tally> + Sync,
{
    let (flights, skipped) = read_flights(path)
        .map_err(|problem| Failure::Input(format!("cannot read {path:?}: {problem}")))?;

    let start = Instant::now();
    let conflicts = book_all(db, &flights, retry).map_err(|error| {
        let error = with_sources(&error);
        Failure::Booking(format!("booking failed: {error}"))
    })?;
    let elapsed = start.elapsed();

    let totals = check_totals(db, &flights).map_err(Failure::Booking)?;
    print(|out| {
        print_busiest(out, &totals)?;
        let routes = totals.keys().filter(|(pk, _)| pk != AIRPORTS).count();
        let throughput = flights.len() as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        writeln!(out)?;
        writeln!(out, "flights booked  {:>9}", flights.len())?;
        writeln!(out, "routes          {routes:>9}")?;
        writeln!(out, "throughput      {throughput:>9.0} flights/s")?;
        writeln!(out, "conflicts       {conflicts:>9} (retried)")?;
        writeln!(out, "lines skipped   {skipped:>9}")
    })
}

// Reading the file

struct Flight {
    delay: i32,
    distance: u32,
    origin: String,
    destination: String,
}

/// Returns the flights in the file, and the number of lines that were skipped because they are
/// invalid. The error does not include the file's name.
fn read_flights(path: &Path) -> Result<(Vec<Flight>, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader = ReaderBuilder::new()
        .flexible(true)
        .quoting(false)
        .trim(Trim::All)
        // A preceding "\r" is trimmed.
        .terminator(Terminator::Any(b'\n'))
        // With a line feed at the end of the last line, too, the reader is always one line past the
        // record that it has just read. (The position of a record is that of blank lines before it.)
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
                print_error(format_args!("line {line} skipped: {problem}"));
            }
        }
    }
    Ok((flights, skipped))
}

impl Flight {
    fn from_record(record: &ByteRecord) -> Result<Self, String> {
        let mut fields = [""; HEADER.len()];
        if record.len() != fields.len() {
            let (actual, expected) = (record.len(), fields.len());
            return Err(format!("{actual} fields instead of {expected}"));
        }
        for ((field, name), bytes) in fields.iter_mut().zip(HEADER).zip(record) {
            *field = from_utf8(bytes).map_err(|_| format!("the {name} is not valid UTF-8"))?;
            if field.is_empty() {
                return Err(format!("the {name} is empty"));
            }
        }
        let [date, delay, distance, origin, destination] = fields;
        if !is_date(date) {
            return Err(format!(
                "the date {date:?} is not a valid `YYYY/MM/DD HH:MM`"
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
        .map_err(|error| format!("the {name} {text:?} is invalid: {error}"))
}

/// Returns `true` if `text` is `YYYY/MM/DD HH:MM` and a valid date and time.
fn is_date(text: &str) -> bool {
    const FORMAT: &[u8] = b"0000/00/00 00:00";
    let matches = |(byte, format): (u8, &u8)| match format {
        b'0' => byte.is_ascii_digit(),
        separator => byte == *separator,
    };
    if text.len() != FORMAT.len() || !text.bytes().zip(FORMAT).all(matches) {
        return false;
    }
    // The text is ASCII, so it can be sliced anywhere, and the slices below consist of digits.
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

/// The totals of an airport or a route. A flight that returns to its origin counts twice at that
/// airport, as a departure and as an arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Tally {
    flights: u64,
    /// In minutes; negative for early flights.
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

/// The partition key of all airports. The sort keys are their codes.
const AIRPORTS: &str = "airport";

/// Returns the partition key of all routes from an airport. The sort keys are their destinations.
fn routes_from(airport: &str) -> String {
    format!("routes from {airport}")
}

impl Flight {
    /// Returns the partition keys and sort keys of the tallies that this flight changes.
    fn tallies(&self) -> [(String, &str); 3] {
        [
            (AIRPORTS.to_owned(), &self.origin),
            (AIRPORTS.to_owned(), &self.destination),
            (routes_from(&self.origin), &self.destination),
        ]
    }

    /// Adds this flight to all three tallies in one transaction, and returns the number of conflicts
    /// on the way.
    fn book<D: AtomicDb<Data = Tally>>(&self, db: &D, retry: &Retry) -> atomic_db::Result<u64> {
        let tallies = self.tallies();
        let mut attempts = 0;
        db.transact_with(retry, |tx| {
            attempts += 1;
            // Each tally has its own lock, so flights conflict only if they share an airport.
            for (pk, sk) in &tallies {
                tx.lock((format!("lock of {pk}").as_str(), *sk))?;
            }
            // Read each tally after the previous one was written: a transaction reads its own writes,
            // so a flight from an airport to itself is counted twice.
            for (pk, sk) in &tallies {
                let item = tx.get((pk.as_str(), *sk))?;
                let mut tally = item.and_then(Item::into_data).unwrap_or_default();
                tally.add(self);
                tx.set(Item::new(pk, sk, tally))?;
            }
            Ok(())
        })?;
        Ok(attempts - 1)
    }
}

/// Returns the retry policy for a database in memory, where a transaction takes microseconds, and so
/// should the first pause after a conflict. A transaction needs few attempts, because each conflict
/// means that another flight was booked; their number is only a bound.
fn memory_retry() -> Retry {
    Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_micros(20), Duration::from_millis(20))
}

/// Books all flights from several threads, and returns the number of conflicts.
fn book_all<D>(db: &D, flights: &[Flight], retry: &Retry) -> atomic_db::Result<u64>
where
    D: AtomicDb<Data = Tally> + Sync,
{
    let threads = thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let progress = progress_bar(flights.len());

    let next = AtomicUsize::new(0);
    let work = || -> atomic_db::Result<u64> {
        let mut conflicts = 0;
        while let Some(flight) = flights.get(next.fetch_add(1, Ordering::Relaxed)) {
            conflicts += flight.book(db, retry).inspect_err(|_| {
                // Leave nothing to do for the other threads.
                next.store(flights.len(), Ordering::Relaxed);
            })?;
            progress.inc(1);
        }
        Ok(conflicts)
    };
    let conflicts = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .sum()
    });
    progress.finish_and_clear();
    conflicts
}

/// Returns a progress bar on stderr, hidden if that is not a terminal.
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

/// Returns the totals in the database if they equal those of a single-threaded count without a
/// database. The error names the first difference.
fn check_totals<D: AtomicDb<Data = Tally>>(db: &D, flights: &[Flight]) -> Result<Totals, String> {
    let mut expected = Totals::new();
    for flight in flights {
        for (pk, sk) in flight.tallies() {
            expected.entry((pk, sk.to_owned())).or_default().add(flight);
        }
    }
    let found = read_totals(db).map_err(|error| {
        let error = with_sources(&error);
        format!("cannot read the totals: {error}")
    })?;
    for key in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected != found {
            return Err(format!(
                "wrong totals: {key:?} is {found:?} instead of {expected:?}"
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
        // A stream holds no lock, so the loop body may use the database.
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
        // Adding zero turns a rounded -0.0 into 0.0.
        let delay = (tally.mean_delay() * 10.0).round() / 10.0 + 0.0;
        writeln!(out, "{code:width$}  {flights:>7}  {delay:>16.1}")?;
    }
    Ok(())
}

/// Runs `write` on stdout. Unlike with `println!`, a closed pipe is an error instead of a panic.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Prints a line on stderr, and ignores failures such as a closed pipe.
fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns the text of an error and of its sources, which `Display` of the library's errors omits.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}
