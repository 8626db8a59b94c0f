//! Balances and statements.

use crate::error::CommandError;
use crate::printable::printable;
use crate::store::{ACCOUNTS, Ledger, Record, entries_of};
use crate::values::{Amount, Name, format_cents};
use atomic_db::{AtomicDb, Item, Key, Query};
use std::io::Write;

pub(crate) fn balance(
    ledger: &Ledger,
    account: &Name,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let item = ledger.get(Key::new(ACCOUNTS, account.as_str()))?;
    match item.and_then(Item::into_data) {
        Some(Record::Account(account)) => Ok(writeln!(out, "{}", Amount(account.cents))?),
        _ => Err(CommandError::Refused(format!(
            "account {account} does not exist"
        ))),
    }
}

pub(crate) fn balances(ledger: &Ledger, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut total: i128 = 0;
    for item in ledger.stream(Query::new(ACCOUNTS)) {
        let item = item?;
        if let Some(Record::Account(account)) = item.data() {
            total += i128::from(account.cents);
            let cents = Amount(account.cents).to_string();
            writeln!(out, "{cents:>20}  {}", printable(item.sk()))?;
        }
    }
    writeln!(out, "{:>20}  total", format_cents(total))?;
    Ok(())
}

pub(crate) fn statement(
    ledger: &Ledger,
    account: &Name,
    reverse: bool,
    limit: Option<usize>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    if ledger.get(Key::new(ACCOUNTS, account.as_str()))?.is_none() {
        return Err(CommandError::Refused(format!(
            "account {account} does not exist"
        )));
    }
    let mut query = Query::new(entries_of(account.as_str()));
    if reverse {
        query = query.reverse();
    }
    if let Some(limit) = limit {
        query = query.limit(limit);
    }
    for item in ledger.stream(query) {
        let item = item?;
        if let Some(Record::Entry(entry)) = item.data() {
            let cents = Amount(entry.cents).to_string();
            let balance = Amount(entry.balance).to_string();
            let (other, note) = (entry.other.as_deref(), entry.note.as_deref());
            let details: Vec<&str> = other.into_iter().chain(note).collect();
            let (date, details) = (printable(&entry.date), printable(&details.join(", ")));
            writeln!(out, "{date}  {cents:>14}  {balance:>14}  {details}")?;
        }
    }
    Ok(())
}
