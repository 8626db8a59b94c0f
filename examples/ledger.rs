//! A ledger in one file: accounts, deposits, transfers and imports, each booked atomically. Several
//! processes can use one file, one after another. A process that is killed loses nothing that it has
//! reported as booked.
//!
//! ```sh
//! cargo run --release --features redb --example ledger -- --file books.redb open Ada
//! cargo run --release --features redb --example ledger -- --file books.redb deposit Ada 12.50
//! cargo run --release --features redb --example ledger -- --file books.redb import examples/data/flights-5k.csv
//! cargo run --release --features redb --example ledger -- --file books.redb statement LAX
//! ```

use atomic_db::{AtomicDb, AtomicDbExt, Error, Item, Key, Query, RedbDb, Transaction};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A ledger in one file. Amounts are exact, with two decimal places.
///
/// Exit codes: 0 success; 1 the ledger refused the command, or its file failed; 2 invalid arguments
/// or input.
#[derive(Parser)]
#[command(name = "ledger", verbatim_doc_comment)]
struct Arguments {
    /// The file of the ledger; `open` and `import` create it if it does not exist
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Opens an account
    Open {
        account: Name,
        /// How far the balance may go below zero
        #[arg(long, value_name = "AMOUNT")]
        overdraft: Option<Amount>,
    },
    /// Deposits money into an account
    Deposit {
        account: Name,
        amount: Amount,
        /// A note for the entry
        #[arg(long)]
        note: Option<String>,
    },
    /// Transfers money from one account to another
    Transfer {
        from: Name,
        to: Name,
        amount: Amount,
        /// A note for the entry
        #[arg(long)]
        note: Option<String>,
    },
    /// Shows the balance of an account, or of all accounts
    Balance { account: Option<Name> },
    /// Lists the entries of an account, oldest first
    Statement {
        account: Name,
        /// Lists the newest entries first
        #[arg(long)]
        reverse: bool,
        /// Lists at most this many entries
        #[arg(long, value_name = "ENTRIES")]
        limit: Option<usize>,
    },
    /// Books every line of a file. The lines are flights, as CSV with the header
    /// `date,delay,distance,origin,destination`, each of which transfers its distance from origin to
    /// destination; or JSON objects such as {"from": "Ada", "to": "Bob", "amount": "12.50"}, of which
    /// `from`, `date` and `note` are optional. Missing accounts are opened. An interrupted import
    /// resumes where it stopped when it is run again; imports are identified by the name of the file
    #[command(verbatim_doc_comment)]
    Import { path: PathBuf },
}

fn main() -> ExitCode {
    let Arguments { file, command } = Arguments::parse();
    let (message, code) = match run(&file, command) {
        Ok(()) => return ExitCode::SUCCESS,
        // The reader has closed the pipe, as in `ledger statement Ada | head -1`.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(CommandError::Output(error)) => (format!("cannot write the result: {error}"), 1),
        Err(CommandError::Input(message)) => (message, 2),
        Err(CommandError::Refused(message)) => (message, 1),
        Err(CommandError::Database(Error::OutcomeUnknown(source))) => (
            format!(
                "the disk failed: {source}. The entry may have been booked: check the balance before you try again"
            ),
            1,
        ),
        Err(CommandError::Database(error)) => (with_sources(&error), 1),
    };
    // The exit code reports the failure even if stderr is closed.
    let _ = writeln!(io::stderr(), "ledger: {message}");
    ExitCode::from(code)
}

/// Why a command failed.
enum CommandError {
    Input(String),
    Refused(String),
    Database(Error),
    Output(io::Error),
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        CommandError::Database(error)
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        CommandError::Output(error)
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", with_sources(source)),
    }
}

fn run(file: &Path, command: Command) -> Result<(), CommandError> {
    let out = &mut BufWriter::new(io::stdout().lock());
    match command {
        Command::Open { account, overdraft } => {
            open_account(
                &Ledger::open(file)?,
                &account,
                overdraft.unwrap_or(Amount(0)),
            )?;
        }
        Command::Deposit {
            account,
            amount,
            note,
        } => {
            let balance = deposit(&Ledger::open_existing(file)?, &account, amount, note)?;
            writeln!(out, "{balance}")?;
        }
        Command::Transfer {
            from,
            to,
            amount,
            note,
        } => {
            let balance = transfer(&Ledger::open_existing(file)?, from, to, amount, note)?;
            writeln!(out, "{balance}")?;
        }
        Command::Balance { account } => show_balance(&Ledger::open_to_read(file)?, account, out)?,
        Command::Statement {
            account,
            reverse,
            limit,
        } => {
            let mut query = Query::new(entries_of(&account));
            if reverse {
                query = query.reverse();
            }
            if let Some(limit) = limit {
                query = query.limit(limit);
            }
            show_statement(&Ledger::open_to_read(file)?, &account, query, out)?;
        }
        Command::Import { path } => import(file, &path, out)?,
    }
    out.flush()?;
    Ok(())
}

// Data

/// The partition of all accounts, so that one query lists them. The entries of each account have their
/// own partition, and so have the locks.
const ACCOUNTS: &str = "accounts";
const LOCKS: &str = "locks";
const IMPORTS: &str = "imports";

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Account(Account),
    Entry(Entry),
    /// The number of lines of an import that are booked.
    Import {
        lines: u64,
    },
}

#[derive(Clone, Deserialize, Serialize)]
struct Account {
    cents: i64,
    /// How far the balance may go below zero; unlimited if `None`.
    overdraft: Option<i64>,
    /// The number of entries, which is the number of the next one.
    entries: u64,
}

#[derive(Clone, Deserialize, Serialize)]
struct Entry {
    date: String,
    cents: i64,
    balance: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

fn entries_of(account: &str) -> String {
    format!("entries of {account}")
}

struct Ledger(RedbDb<Record>);

impl Ledger {
    fn open(file: &Path) -> Result<Self, CommandError> {
        Ok(Ledger(RedbDb::open(file)?))
    }

    fn open_existing(file: &Path) -> Result<Self, CommandError> {
        if file.exists() {
            Ledger::open(file)
        } else {
            Err(CommandError::Refused(format!(
                "there is no ledger at {file:?}"
            )))
        }
    }

    /// Opens the file so that other processes can read it too. If it needs a repair, it is opened for
    /// writing, which repairs it.
    fn open_to_read(file: &Path) -> Result<Self, CommandError> {
        match RedbDb::builder().read_only(true).open(file) {
            Ok(db) => Ok(Ledger(db)),
            Err(Error::InvalidInput(_)) => Ledger::open(file),
            Err(_) => Ledger::open_existing(file),
        }
    }
}

// Booking

/// A transfer to an account, or a deposit if `from` is `None`.
#[derive(Clone)]
struct Booking {
    from: Option<Name>,
    to: Name,
    cents: i64,
    date: String,
    note: Option<String>,
}

fn open_account(ledger: &Ledger, name: &Name, overdraft: Amount) -> Result<(), CommandError> {
    let account = Account {
        cents: 0,
        overdraft: Some(overdraft.0),
        entries: 0,
    };
    let created = ledger.0.try_transact(|tx| {
        tx.lock((LOCKS, name.as_str()))?;
        tx.create(Item::new(ACCOUNTS, name, Record::Account(account.clone())))?;
        Ok::<(), CommandError>(())
    });
    match created {
        Err(CommandError::Database(Error::AlreadyExists { .. })) => Err(CommandError::Refused(
            format!("account {name} already exists"),
        )),
        other => other,
    }
}

fn deposit(
    ledger: &Ledger,
    account: &Name,
    amount: Amount,
    note: Option<String>,
) -> Result<Amount, CommandError> {
    let booking = Booking {
        from: None,
        to: account.clone(),
        cents: positive(amount)?,
        date: today(),
        note,
    };
    book_one(ledger, &booking, account)
}

fn transfer(
    ledger: &Ledger,
    from: Name,
    to: Name,
    amount: Amount,
    note: Option<String>,
) -> Result<Amount, CommandError> {
    if from == to {
        return Err(CommandError::Input(
            "from and to are the same account".to_owned(),
        ));
    }
    let booking = Booking {
        from: Some(from.clone()),
        to,
        cents: positive(amount)?,
        date: today(),
        note,
    };
    book_one(ledger, &booking, &from)
}

fn positive(amount: Amount) -> Result<i64, CommandError> {
    if amount.0 == 0 {
        return Err(CommandError::Input(
            "the amount must not be zero".to_owned(),
        ));
    }
    Ok(amount.0)
}

/// Books `booking` and returns the balance of `account` after it.
fn book_one(ledger: &Ledger, booking: &Booking, account: &Name) -> Result<Amount, CommandError> {
    ledger.0.try_transact(|tx| {
        let accounts = book_all(tx, std::slice::from_ref(booking), false)?;
        Ok(Amount(
            accounts.get(account).map_or(0, |account| account.cents),
        ))
    })
}

/// Books `bookings` in order and returns the accounts that they change. If `create_accounts` is set,
/// missing accounts are opened. The transaction must not have read any data before.
fn book_all(
    tx: &mut Transaction<'_, RedbDb<Record>>,
    bookings: &[Booking],
    create_accounts: bool,
) -> Result<BTreeMap<Name, Account>, CommandError> {
    let names: BTreeSet<&Name> = bookings
        .iter()
        .flat_map(|booking| [booking.from.as_ref(), Some(&booking.to)])
        .flatten()
        .collect();
    for name in &names {
        tx.lock((LOCKS, name.as_str()))?;
    }
    let mut accounts = BTreeMap::new();
    for name in names {
        let account = match tx.get((ACCOUNTS, name.as_str()))?.and_then(Item::into_data) {
            Some(Record::Account(account)) => account,
            _ if create_accounts => Account {
                cents: 0,
                overdraft: None,
                entries: 0,
            },
            _ => {
                return Err(CommandError::Refused(format!(
                    "account {name} does not exist"
                )));
            }
        };
        accounts.insert(name.clone(), account);
    }
    for booking in bookings {
        if let Some(from) = &booking.from {
            add_entry(
                tx,
                &mut accounts,
                from,
                -booking.cents,
                Some(&booking.to),
                booking,
            )?;
        }
        add_entry(
            tx,
            &mut accounts,
            &booking.to,
            booking.cents,
            booking.from.as_ref(),
            booking,
        )?;
    }
    for (name, account) in &accounts {
        tx.set(Item::new(ACCOUNTS, name, Record::Account(account.clone())))?;
    }
    Ok(accounts)
}

/// Adds an entry to the account `name`, whose other side is the account `other`.
fn add_entry(
    tx: &mut Transaction<'_, RedbDb<Record>>,
    accounts: &mut BTreeMap<Name, Account>,
    name: &Name,
    cents: i64,
    other: Option<&Name>,
    booking: &Booking,
) -> Result<(), CommandError> {
    let Some(account) = accounts.get_mut(name) else {
        return Err(CommandError::Refused(format!(
            "account {name} does not exist"
        )));
    };
    let Some(balance) = account.cents.checked_add(cents) else {
        return Err(CommandError::Refused(format!(
            "the balance of {name} would be too large"
        )));
    };
    let min = account.overdraft.map_or(i64::MIN, |overdraft| -overdraft);
    if cents < 0 && balance < min {
        let (available, amount) = (Amount(account.cents), Amount(-cents));
        return Err(CommandError::Refused(format!(
            "the balance of {name} is {available}, which is not enough for {amount}"
        )));
    }
    let entry = Entry {
        date: booking.date.clone(),
        cents,
        balance,
        other: other.map(|name| name.0.clone()),
        note: booking.note.clone(),
    };
    // Zero-padded, so that the order of the sort keys is that of the numbers.
    let number = format!("{:020}", account.entries);
    account.cents = balance;
    account.entries += 1;
    tx.create(Item::new(entries_of(name), number, Record::Entry(entry)))?;
    Ok(())
}

// Output

fn show_balance(
    ledger: &Ledger,
    account: Option<Name>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if let Some(name) = account {
        return match ledger
            .0
            .get(Key::new(ACCOUNTS, &name))?
            .and_then(Item::into_data)
        {
            Some(Record::Account(account)) => Ok(writeln!(out, "{}", Amount(account.cents))?),
            _ => Err(CommandError::Refused(format!(
                "account {name} does not exist"
            ))),
        };
    }
    let mut total: i128 = 0;
    for item in ledger.0.stream(Query::new(ACCOUNTS)) {
        let item = item?;
        if let Some(Record::Account(account)) = item.data() {
            total += i128::from(account.cents);
            writeln!(
                out,
                "{:>20}  {}",
                Amount(account.cents).to_string(),
                item.sk()
            )?;
        }
    }
    writeln!(out, "{:>20}  total", format_cents(total))?;
    Ok(())
}

fn show_statement(
    ledger: &Ledger,
    account: &Name,
    query: Query,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if ledger.0.get(Key::new(ACCOUNTS, account))?.is_none() {
        return Err(CommandError::Refused(format!(
            "account {account} does not exist"
        )));
    }
    for item in ledger.0.stream(query) {
        let item = item?;
        if let Some(Record::Entry(entry)) = item.data() {
            let (cents, balance) = (Amount(entry.cents), Amount(entry.balance));
            let (other, note) = (entry.other.as_deref(), entry.note.as_deref());
            let details: Vec<&str> = other.into_iter().chain(note).collect();
            let (cents, balance) = (cents.to_string(), balance.to_string());
            writeln!(
                out,
                "{}  {cents:>14}  {balance:>14}  {}",
                entry.date,
                details.join(", ")
            )?;
        }
    }
    Ok(())
}

// Imports

/// The number of lines that are booked in one commit.
const LINES_PER_COMMIT: usize = 200;

const FLIGHTS_HEADER: &str = "date,delay,distance,origin,destination";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: Option<String>,
    to: String,
    amount: String,
    date: Option<String>,
    note: Option<String>,
}

/// Imports the file at `path`. All lines are read before any is booked, so that an invalid line stops
/// the import before it begins.
fn import(file: &Path, path: &Path, out: &mut impl Write) -> Result<(), CommandError> {
    let input_error =
        |problem: String| CommandError::Input(format!("cannot import {path:?}: {problem}"));
    let bookings = read_bookings(path).map_err(input_error)?;
    let ledger = Ledger::open(file)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bar = ProgressBar::new(bookings.len() as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} lines, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));

    let (mut done, mut booked) = (0, 0);
    while done < bookings.len() {
        // The bookings and the progress of the import are one commit.
        let (first, last) = ledger.0.try_transact(|tx| {
            tx.lock((LOCKS, format!("import {name}").as_str()))?;
            // The progress is read outside the transaction, because a transaction reads all of its locks
            // first, and the accounts to lock depend on the progress. The lock above guards it.
            let first = match ledger
                .0
                .get_fresh(Key::new(IMPORTS, &name))?
                .and_then(Item::into_data)
            {
                Some(Record::Import { lines }) => usize::try_from(lines).unwrap_or(usize::MAX),
                _ => 0,
            };
            let last = bookings.len().min(first.saturating_add(LINES_PER_COMMIT));
            let chunk = bookings.get(first..last).unwrap_or_default();
            book_all(tx, chunk, true)?;
            if !chunk.is_empty() {
                let lines = last as u64;
                tx.set(Item::new(IMPORTS, name.as_ref(), Record::Import { lines }))?;
            }
            Ok::<_, CommandError>((first, last))
        })?;
        booked += last.saturating_sub(first);
        done = last;
        bar.set_position(done as u64);
    }
    bar.finish_and_clear();
    let skipped = bookings.len() - booked;
    writeln!(out, "{booked} lines booked, {skipped} were already booked")?;
    Ok(())
}

/// Reads all bookings of a file. The error message does not contain the name of the file.
fn read_bookings(path: &Path) -> Result<Vec<Booking>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut flights = false;
    let mut bookings = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let in_line = |problem: String| format!("line {number}: {problem}");
        let line = line.map_err(|error| in_line(error.to_string()))?;
        let line = line.trim();
        if number == 1 && line == FLIGHTS_HEADER {
            flights = true;
        } else if !line.is_empty() {
            let parse = if flights { parse_flight } else { parse_json };
            bookings.push(parse(line).map_err(in_line)?);
        }
    }
    if bookings.is_empty() {
        return Err("the file contains no bookings".to_owned());
    }
    Ok(bookings)
}

fn parse_flight(line: &str) -> Result<Booking, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [date, delay, distance, origin, destination] = fields[..] else {
        return Err(format!("expected 5 fields, found {}", fields.len()));
    };
    let delay: i64 = delay
        .parse()
        .map_err(|_| format!("the delay {delay:?} is not a number"))?;
    new_booking(
        Some(origin.to_owned()),
        destination.to_owned(),
        distance,
        Some(date.to_owned()),
        Some(format!("delay {delay}")),
    )
}

fn parse_json(line: &str) -> Result<Booking, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    new_booking(line.from, line.to, &line.amount, line.date, line.note)
}

fn new_booking(
    from: Option<String>,
    to: String,
    amount: &str,
    date: Option<String>,
    note: Option<String>,
) -> Result<Booking, String> {
    let from = from.map(|from| from.parse()).transpose()?;
    let to = to.parse()?;
    if from.as_ref() == Some(&to) {
        return Err(format!("from and to are the same account, {to}"));
    }
    match amount.parse()? {
        Amount(0) => Err("the amount must not be zero".to_owned()),
        Amount(cents) => Ok(Booking {
            from,
            to,
            cents,
            date: date.unwrap_or_else(today),
            note,
        }),
    }
}

// Names, amounts and dates

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(
                "an account name must not have whitespace around it or control characters in it"
                    .to_owned(),
            );
        }
        if text.is_empty() || text.len() > 1_000 {
            return Err("an account name must have between 1 and 1,000 bytes".to_owned());
        }
        Ok(Name(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Name {
    fn as_str(&self) -> &str {
        &self.0
    }
}

/// An amount of money, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Amount(i64);

impl FromStr for Amount {
    type Err = String;

    /// Parses digits, and up to two more after a point.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not an amount such as 12 or 12.50");
        let (units, hundredths) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(units) || !digits(hundredths) || hundredths.len() > 2 {
            return Err(invalid());
        }
        let cents = format!("{units}{hundredths:0<2}").parse();
        cents
            .map(Amount)
            .map_err(|_| format!("{text} is too large"))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_cents(i128::from(self.0)))
    }
}

fn format_cents(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

/// Returns today's date in UTC.
fn today() -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut days = since_epoch.as_secs() / 86_400;
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
