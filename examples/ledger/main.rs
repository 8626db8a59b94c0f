//! A ledger in one file: accounts, deposits, transfers and imports, each booked atomically. Several
//! processes can use one file, one after another; they wait for each other. A process that is killed
//! loses nothing that it has reported as booked.
//!
//! ```sh
//! cargo run --release --features redb --example ledger -- --file books.redb open Ada
//! cargo run --release --features redb --example ledger -- --file books.redb deposit Ada 12.50
//! cargo run --release --features redb --example ledger -- --file books.redb import examples/data/flights-5k.csv
//! cargo run --release --features redb --example ledger -- --file books.redb statement LAX
//! ```
//!
//! | file | contents |
//! | --- | --- |
//! | `main` | the command line |
//! | `values` | names, amounts and dates |
//! | `printable` | text from users on a terminal |
//! | `error` | why a command failed, and its exit code |
//! | `store` | the file and its records |
//! | `book` | deposits and transfers |
//! | `show` | balances and statements |
//! | `input` | files that can be imported |
//! | `import` | books the lines of a file |
//! | `whole` | export and import of a whole ledger |

mod book;
mod error;
mod import;
mod input;
mod printable;
mod show;
mod store;
mod values;
mod whole;

use book::Booking;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use error::CommandError;
use import::Known;
use input::Input;
use printable::printable;
use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::Ledger;
use values::{Amount, Name};

/// A ledger in one file. Amounts are exact, with two decimal places.
///
/// Exit codes: 0 success, even if the result could not be shown after it was booked; 1 nothing was
/// booked, because the ledger refused the command or its file failed; 2 invalid arguments or input;
/// 3 the disk failed, and the entry may have been booked.
#[derive(Parser)]
#[command(name = "ledger", version, verbatim_doc_comment, after_help = EXAMPLE)]
struct Arguments {
    /// The file of the ledger; `open` and `import` create it if it does not exist
    #[arg(long, value_name = "FILE", global = true)]
    file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example:
  ledger --file books.redb open Ada
  ledger --file books.redb open Bob --overdraft 100
  ledger --file books.redb deposit Ada 12.50 --note 'first deposit'
  ledger --file books.redb transfer Ada Bob 5
  ledger --file books.redb statement Ada
  ledger --file books.redb export books.jsonl
  ledger --file copy.redb import books.jsonl";

#[derive(Subcommand)]
enum Command {
    /// Opens an account
    Open {
        account: Name,
        /// How far the balance may go below zero
        #[arg(long, value_name = "AMOUNT")]
        overdraft: Option<Amount>,
    },
    /// Deposits money into an account, and shows its balance
    Deposit {
        account: Name,
        amount: Amount,
        /// A note for the entry
        #[arg(long)]
        note: Option<String>,
    },
    /// Transfers money from one account to another, and shows the balance of the first one
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
    /// Books every line of a file, or restores an exported ledger in a new file.
    ///
    /// The lines are flights, as CSV with the header `date,delay,distance,origin,destination`, each of
    /// which transfers its distance from origin to destination; or JSON objects such as
    /// {"from": "Ada", "to": "Bob", "amount": "12.50"}, of which `from`, `date` and `note` are
    /// optional. Missing accounts are opened.
    ///
    /// An import is known by the contents of its lines, whatever the name of the file: lines that were
    /// imported before are not booked again, and an interrupted import resumes where it stopped when it
    /// is run again.
    #[command(verbatim_doc_comment)]
    Import {
        /// The file to import; `-` is standard input
        path: PathBuf,
        /// If the first lines are those of an earlier import, books only the lines after those that are
        /// booked
        #[arg(long)]
        rest: bool,
        /// If the first lines are those of an earlier import, books all lines
        #[arg(long, conflicts_with = "rest")]
        all: bool,
    },
    /// Writes the whole ledger to a new file, or to standard output, as JSON lines
    Export { path: Option<PathBuf> },
}

fn main() -> ExitCode {
    let Arguments { file, command } = Arguments::parse();
    let Some(file) = file else {
        let missing = "the ledger is missing: --file <FILE>";
        let mut command = Arguments::command();
        command
            .error(ErrorKind::MissingRequiredArgument, missing)
            .exit()
    };
    match run(&file, command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, as in `ledger statement Ada | head -1`.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let (message, code) = error.report();
            warn(&message);
            ExitCode::from(code)
        }
    }
}

/// Writes a message to standard error. The exit code counts even if that is closed.
fn warn(message: &str) {
    let _ = writeln!(io::stderr(), "ledger: {}", printable(message));
}

/// Shows the result of a command that has booked something. If it cannot be shown, the command still
/// succeeds, so that it is not tried again.
fn show_after_booking(result: impl Display) {
    let mut out = io::stdout().lock();
    let shown = writeln!(out, "{result}").and_then(|()| out.flush());
    if let Err(error) = shown {
        warn(&format!("booked, but the result cannot be shown: {error}"));
    }
}

fn run(file: &Path, command: Command) -> Result<(), CommandError> {
    match command {
        Command::Open { account, overdraft } => {
            let overdraft = overdraft.unwrap_or(Amount(0));
            book::open_account(&store::open_or_create(file)?, &account, overdraft)?;
        }
        Command::Deposit {
            account,
            amount,
            note,
        } => book(file, None, account, amount, note)?,
        Command::Transfer {
            from,
            to,
            amount,
            note,
        } => book(file, Some(from), to, amount, note)?,
        Command::Import { path, rest, all } => {
            let known = match (rest, all) {
                (true, _) => Known::BookRest,
                (_, true) => Known::BookAll,
                _ => Known::Refuse,
            };
            import(file, &path, known)?;
        }
        Command::Balance { account } => show(file, |ledger, out| match account {
            Some(account) => show::balance(ledger, &account, out),
            None => show::balances(ledger, out),
        })?,
        Command::Statement {
            account,
            reverse,
            limit,
        } => show(file, |ledger, out| {
            show::statement(ledger, &account, reverse, limit, out)
        })?,
        Command::Export { path } => show(file, |ledger, out| {
            let Some(path) = path else {
                whole::export(ledger, out)?;
                return Ok(());
            };
            let records = whole::export_to_file(ledger, &path)?;
            Ok(writeln!(out, "{records} records exported")?)
        })?,
    }
    Ok(())
}

/// Runs a command that reads the ledger and books nothing.
fn show(
    file: &Path,
    command: impl FnOnce(&Ledger, &mut dyn Write) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut out = BufWriter::new(io::stdout().lock());
    command(&store::open_to_read(file)?, &mut out)?;
    out.flush()?;
    Ok(())
}

/// Books a deposit or a transfer, and shows the balance of the account that the user thinks of first.
fn book(
    file: &Path,
    from: Option<Name>,
    to: Name,
    amount: Amount,
    note: Option<String>,
) -> Result<(), CommandError> {
    let account = from.clone().unwrap_or_else(|| to.clone());
    let booking = Booking::new(from, to, amount).map_err(CommandError::Input)?;
    let booking = Booking { note, ..booking };
    let balance = book::book(&store::open(file)?, &booking, &account)?;
    show_after_booking(balance);
    Ok(())
}

fn import(file: &Path, path: &Path, known: Known) -> Result<(), CommandError> {
    match input::read(path)? {
        Input::Bookings(bookings) => {
            let booked = import::import(|| store::open_or_create(file), &bookings, known)?;
            let skipped = bookings.len() - booked;
            show_after_booking(format!(
                "{booked} lines booked, {skipped} were already booked"
            ));
        }
        Input::Ledger(exported) => {
            let records = whole::import(file, &exported)?;
            show_after_booking(format!("{records} records imported"));
        }
    }
    Ok(())
}
