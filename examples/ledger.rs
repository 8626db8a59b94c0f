//! A ledger in one file: accounts, deposits, transfers and imports, each booked whole or not at all.
//! Several processes may use one file, one after another; a process that is killed loses nothing that
//! it has reported as done.
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

/// A ledger in one file. Amounts are exact, with two digits after the point.
///
/// Exit codes: 0 done; 1 the ledger refuses, or its file failed; 2 wrong arguments or input.
#[derive(Parser)]
#[command(name = "ledger", verbatim_doc_comment)]
struct Arguments {
    /// The ledger's file; `open` and `import` make it if it is not there
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
        /// How far below zero the account may go
        #[arg(long, value_name = "AMOUNT")]
        overdraft: Option<Amount>,
    },
    /// Puts money into an account
    Deposit {
        account: Name,
        amount: Amount,
        /// What it is for
        #[arg(long)]
        note: Option<String>,
    },
    /// Moves money from one account to another
    Transfer {
        from: Name,
        to: Name,
        amount: Amount,
        /// What it is for
        #[arg(long)]
        note: Option<String>,
    },
    /// Shows what is in an account, or in all of them
    Balance { account: Option<Name> },
    /// Lists the entries of an account, oldest first
    Statement {
        account: Name,
        /// Newest first
        #[arg(long)]
        reverse: bool,
        /// At most so many
        #[arg(long, value_name = "ENTRIES")]
        limit: Option<usize>,
    },
    /// Books every line of a file: of flights, as CSV with the header
    /// `date,delay,distance,origin,destination`, where each moves its distance from origin to
    /// destination; or of JSON objects such as {"from": "Ada", "to": "Bob", "amount": "12.50"}, where
    /// `from`, `date` and `note` may be missing. Accounts are opened as they are met. An import that
    /// was interrupted goes on where it ended when it is run again; it is known by its file's name
    #[command(verbatim_doc_comment)]
    Import { path: PathBuf },
}

fn main() -> ExitCode {
    let Arguments { file, command } = Arguments::parse();
    let (message, code) = match run(&file, command) {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads has read enough, as in `ledger statement Ada | head -1`.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (format!("cannot write the result: {error}"), 1),
        Err(Failure::Input(message)) => (message, 2),
        Err(Failure::Refused(message)) => (message, 1),
        Err(Failure::Database(Error::OutcomeUnknown(source))) => (
            format!("the disk failed: {source}. Look at the balance before you try again"),
            1,
        ),
        Err(Failure::Database(error)) => (with_sources(&error), 1),
    };
    // A closed pipe here as well is no reason to fail in another way.
    let _ = writeln!(io::stderr(), "ledger: {message}");
    ExitCode::from(code)
}

/// Why a command was not done.
enum Failure {
    Input(String),
    Refused(String),
    Database(Error),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Database(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", with_sources(source)),
    }
}

fn run(file: &Path, command: Command) -> Result<(), Failure> {
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

// What is in the file

/// Accounts lie in one partition, so that all of them are one query; each account's entries and the
/// locks lie in others.
const ACCOUNTS: &str = "accounts";
const LOCKS: &str = "locks";
const IMPORTS: &str = "imports";

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Row {
    Account(Account),
    Entry(Entry),
    /// How many lines of an import are booked.
    Import {
        lines: u64,
    },
}

#[derive(Clone, Deserialize, Serialize)]
struct Account {
    cents: i64,
    /// How far below zero it may go; any way, if there is no number.
    overdraft: Option<i64>,
    /// How many it has, which numbers the next one.
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

struct Ledger(RedbDb<Row>);

impl Ledger {
    fn open(file: &Path) -> Result<Self, Failure> {
        Ok(Ledger(RedbDb::open(file)?))
    }

    fn open_existing(file: &Path) -> Result<Self, Failure> {
        match file.exists() {
            true => Ledger::open(file),
            false => Err(Failure::Refused(format!("there is no ledger at {file:?}"))),
        }
    }

    /// Beside others who read. A file that needs a repair is opened for writing, which does it.
    fn open_to_read(file: &Path) -> Result<Self, Failure> {
        match RedbDb::builder().read_only(true).open(file) {
            Ok(db) => Ok(Ledger(db)),
            Err(Error::InvalidInput(_)) => Ledger::open(file),
            Err(_) => Ledger::open_existing(file),
        }
    }
}

// Booking

/// What is to be moved: from an account, if it names one, to another.
#[derive(Clone)]
struct Booking {
    from: Option<Name>,
    to: Name,
    cents: i64,
    date: String,
    note: Option<String>,
}

fn open_account(ledger: &Ledger, name: &Name, overdraft: Amount) -> Result<(), Failure> {
    let account = Account {
        cents: 0,
        overdraft: Some(overdraft.0),
        entries: 0,
    };
    let created = ledger.0.try_transact(|tx| {
        tx.lock((LOCKS, name.as_str()))?;
        tx.create(Item::new(ACCOUNTS, name, Row::Account(account.clone())))?;
        Ok::<(), Failure>(())
    });
    match created {
        Err(Failure::Database(Error::AlreadyExists { .. })) => Err(Failure::Refused(format!(
            "there is an account {name} already"
        ))),
        other => other,
    }
}

fn deposit(
    ledger: &Ledger,
    account: &Name,
    amount: Amount,
    note: Option<String>,
) -> Result<Amount, Failure> {
    let booking = Booking {
        from: None,
        to: account.clone(),
        cents: positive(amount)?,
        date: today(),
        note,
    };
    balance_after(ledger, &booking, account)
}

fn transfer(
    ledger: &Ledger,
    from: Name,
    to: Name,
    amount: Amount,
    note: Option<String>,
) -> Result<Amount, Failure> {
    if from == to {
        return Err(Failure::Input("from and to are one account".to_owned()));
    }
    let booking = Booking {
        from: Some(from.clone()),
        to,
        cents: positive(amount)?,
        date: today(),
        note,
    };
    balance_after(ledger, &booking, &from)
}

fn positive(amount: Amount) -> Result<i64, Failure> {
    match amount.0 {
        0 => Err(Failure::Input("the amount is nothing".to_owned())),
        cents => Ok(cents),
    }
}

fn balance_after(ledger: &Ledger, booking: &Booking, of: &Name) -> Result<Amount, Failure> {
    ledger.0.try_transact(|tx| {
        let accounts = book_all(tx, std::slice::from_ref(booking), false)?;
        Ok(Amount(accounts.get(of).map_or(0, |account| account.cents)))
    })
}

/// Books `bookings` in their order, all or nothing, and returns the accounts that they touch. The
/// transaction has read nothing before.
fn book_all(
    tx: &mut Transaction<'_, RedbDb<Row>>,
    bookings: &[Booking],
    opens: bool,
) -> Result<BTreeMap<Name, Account>, Failure> {
    let named = bookings
        .iter()
        .flat_map(|booking| [booking.from.as_ref(), Some(&booking.to)]);
    let names: BTreeSet<&Name> = named.flatten().collect();
    for name in &names {
        tx.lock((LOCKS, name.as_str()))?;
    }
    let mut accounts = BTreeMap::new();
    for name in names {
        let account = match tx.get((ACCOUNTS, name.as_str()))?.and_then(Item::into_data) {
            Some(Row::Account(account)) => account,
            _ if opens => Account {
                cents: 0,
                overdraft: None,
                entries: 0,
            },
            _ => return Err(Failure::Refused(format!("there is no account {name}"))),
        };
        accounts.insert(name.clone(), account);
    }
    for booking in bookings {
        if let Some(from) = &booking.from {
            book(
                tx,
                &mut accounts,
                from,
                -booking.cents,
                Some(&booking.to),
                booking,
            )?;
        }
        book(
            tx,
            &mut accounts,
            &booking.to,
            booking.cents,
            booking.from.as_ref(),
            booking,
        )?;
    }
    for (name, account) in &accounts {
        tx.set(Item::new(ACCOUNTS, name, Row::Account(account.clone())))?;
    }
    Ok(accounts)
}

fn book(
    tx: &mut Transaction<'_, RedbDb<Row>>,
    accounts: &mut BTreeMap<Name, Account>,
    name: &Name,
    cents: i64,
    other: Option<&Name>,
    booking: &Booking,
) -> Result<(), Failure> {
    let Some(account) = accounts.get_mut(name) else {
        return Err(Failure::Refused(format!("there is no account {name}")));
    };
    let Some(balance) = account.cents.checked_add(cents) else {
        return Err(Failure::Refused(format!("{name} cannot hold so much")));
    };
    let least = account.overdraft.map_or(i64::MIN, |overdraft| -overdraft);
    if cents < 0 && balance < least {
        let (has, wants) = (Amount(account.cents), Amount(-cents));
        return Err(Failure::Refused(format!(
            "{name} has {has}, which is not enough for {wants}"
        )));
    }
    let entry = Entry {
        date: booking.date.clone(),
        cents,
        balance,
        other: other.map(|name| name.0.clone()),
        note: booking.note.clone(),
    };
    // In the order of text, which is the order of numbers if all are of one length.
    let number = format!("{:020}", account.entries);
    account.cents = balance;
    account.entries += 1;
    tx.create(Item::new(entries_of(name), number, Row::Entry(entry)))?;
    Ok(())
}

// Showing

fn show_balance(
    ledger: &Ledger,
    account: Option<Name>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if let Some(name) = account {
        return match ledger
            .0
            .get(Key::new(ACCOUNTS, &name))?
            .and_then(Item::into_data)
        {
            Some(Row::Account(account)) => Ok(writeln!(out, "{}", Amount(account.cents))?),
            _ => Err(Failure::Refused(format!("there is no account {name}"))),
        };
    }
    let mut total: i128 = 0;
    for item in ledger.0.stream(Query::new(ACCOUNTS)) {
        let item = item?;
        if let Some(Row::Account(account)) = item.data() {
            total += i128::from(account.cents);
            writeln!(
                out,
                "{:>20}  {}",
                Amount(account.cents).to_string(),
                item.sk()
            )?;
        }
    }
    writeln!(out, "{:>20}  in all", in_units(total))?;
    Ok(())
}

fn show_statement(
    ledger: &Ledger,
    account: &Name,
    query: Query,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if ledger.0.get(Key::new(ACCOUNTS, account))?.is_none() {
        return Err(Failure::Refused(format!("there is no account {account}")));
    }
    for item in ledger.0.stream(query) {
        let item = item?;
        if let Some(Row::Entry(entry)) = item.data() {
            let (cents, balance) = (Amount(entry.cents), Amount(entry.balance));
            let (other, note) = (entry.other.as_deref(), entry.note.as_deref());
            let about: Vec<&str> = other.into_iter().chain(note).collect();
            let (cents, balance) = (cents.to_string(), balance.to_string());
            writeln!(
                out,
                "{}  {cents:>14}  {balance:>14}  {}",
                entry.date,
                about.join(", ")
            )?;
        }
    }
    Ok(())
}

// Importing

/// How many lines are booked together.
const TOGETHER: usize = 200;

const FLIGHTS: &str = "date,delay,distance,origin,destination";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: Option<String>,
    to: String,
    amount: String,
    date: Option<String>,
    note: Option<String>,
}

/// Reads everything before it books anything, so that a bad line stops the import before it begins.
fn import(file: &Path, path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let unusable = |problem: String| Failure::Input(format!("cannot use {path:?}: {problem}"));
    let bookings = read_bookings(path).map_err(unusable)?;
    let ledger = Ledger::open(file)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bar = ProgressBar::new(bookings.len() as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} lines, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));

    let (mut done, mut booked) = (0, 0);
    while done < bookings.len() {
        // What is booked and how far the import has come are one commit.
        let (first, last) = ledger.0.try_transact(|tx| {
            tx.lock((LOCKS, format!("import {name}").as_str()))?;
            // Which accounts are concerned is known when it is known where to go on.
            let first = match ledger
                .0
                .get_fresh(Key::new(IMPORTS, &name))?
                .and_then(Item::into_data)
            {
                Some(Row::Import { lines }) => usize::try_from(lines).unwrap_or(usize::MAX),
                _ => 0,
            };
            let last = bookings.len().min(first.saturating_add(TOGETHER));
            let some = bookings.get(first..last).unwrap_or_default();
            book_all(tx, some, true)?;
            if !some.is_empty() {
                let lines = last as u64;
                tx.set(Item::new(IMPORTS, name.as_ref(), Row::Import { lines }))?;
            }
            Ok::<_, Failure>((first, last))
        })?;
        booked += last.saturating_sub(first);
        done = last;
        bar.set_position(done as u64);
    }
    bar.finish_and_clear();
    let before = bookings.len() - booked;
    writeln!(out, "{booked} lines booked, {before} were booked before")?;
    Ok(())
}

/// The error is a sentence without the file's name.
fn read_bookings(path: &Path) -> Result<Vec<Booking>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut flights = false;
    let mut bookings = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let in_line = |problem: String| format!("line {number}: {problem}");
        let line = line.map_err(|error| in_line(error.to_string()))?;
        let line = line.trim();
        if number == 1 && line == FLIGHTS {
            flights = true;
        } else if !line.is_empty() {
            let read = if flights { flight } else { json };
            bookings.push(read(line).map_err(in_line)?);
        }
    }
    match bookings.is_empty() {
        true => Err("there is nothing in it to book".to_owned()),
        false => Ok(bookings),
    }
}

fn flight(line: &str) -> Result<Booking, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [date, delay, distance, origin, destination] = fields[..] else {
        return Err(format!("{} fields instead of 5", fields.len()));
    };
    let delay: i64 = delay
        .parse()
        .map_err(|_| format!("the delay {delay:?} is no number"))?;
    booking(
        Some(origin.to_owned()),
        destination.to_owned(),
        distance,
        Some(date.to_owned()),
        Some(format!("delay {delay}")),
    )
}

fn json(line: &str) -> Result<Booking, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    booking(line.from, line.to, &line.amount, line.date, line.note)
}

fn booking(
    from: Option<String>,
    to: String,
    amount: &str,
    date: Option<String>,
    note: Option<String>,
) -> Result<Booking, String> {
    let from = from.map(|from| from.parse()).transpose()?;
    let to = to.parse()?;
    if from.as_ref() == Some(&to) {
        return Err(format!("{to} is on both sides"));
    }
    match amount.parse()? {
        Amount(0) => Err("the amount is nothing".to_owned()),
        Amount(cents) => Ok(Booking {
            from,
            to,
            cents,
            date: date.unwrap_or_else(today),
            note,
        }),
    }
}

// Names, amounts and days

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() != text || text.chars().any(char::is_control) {
            true => Err(
                "an account's name has no blanks around it and no control characters".to_owned(),
            ),
            false if text.is_empty() || text.len() > 1_000 => {
                Err("an account's name has between 1 and 1,000 bytes".to_owned())
            }
            false => Ok(Name(text.to_owned())),
        }
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

/// A sum of money in hundredths.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Amount(i64);

impl FromStr for Amount {
    type Err = String;

    /// Digits, and at most two more after a point.
    fn from_str(text: &str) -> Result<Self, String> {
        let no_amount = || format!("{text:?} is no amount such as 12 or 12.50");
        let (units, hundredths) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(units) || !digits(hundredths) || hundredths.len() > 2 {
            return Err(no_amount());
        }
        let cents = format!("{units}{hundredths:0<2}").parse();
        cents.map(Amount).map_err(|_| format!("{text} is too much"))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(i128::from(self.0)))
    }
}

fn in_units(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

/// Today's date in UTC.
fn today() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut days = since.as_secs() / 86_400;
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
