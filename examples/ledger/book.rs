//! Booking: each call is one transaction.

use crate::error::CommandError;
use crate::store::{ACCOUNTS, Account, Entry, LOCKS, Ledger, Record, entries_of};
use crate::values::{Amount, Name, today};
use atomic_db::{AtomicDbExt, Error, Item, Transaction};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A transfer to an account, or a deposit if `from` is `None`.
#[derive(Clone, Serialize)]
pub(crate) struct Booking {
    pub(crate) from: Option<Name>,
    pub(crate) to: Name,
    pub(crate) cents: i64,
    /// The day of the booking if `None`.
    pub(crate) date: Option<String>,
    pub(crate) note: Option<String>,
}

impl Booking {
    /// Returns a booking, or the reason why it is invalid.
    pub(crate) fn new(from: Option<Name>, to: Name, amount: Amount) -> Result<Self, String> {
        if from.as_ref() == Some(&to) {
            return Err(format!("from and to are the same account, {to}"));
        }
        if amount.0 == 0 {
            return Err("the amount must not be zero".to_owned());
        }
        Ok(Booking {
            from,
            to,
            cents: amount.0,
            date: None,
            note: None,
        })
    }
}

pub(crate) fn open_account(
    ledger: &Ledger,
    name: &Name,
    overdraft: Amount,
) -> Result<(), CommandError> {
    let account = Account {
        cents: 0,
        overdraft: Some(overdraft.0),
        entries: 0,
    };
    let created = ledger.try_transact(|tx| {
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

/// Books `booking` and returns the balance of `account` after it.
pub(crate) fn book(
    ledger: &Ledger,
    booking: &Booking,
    account: &Name,
) -> Result<Amount, CommandError> {
    ledger.try_transact(|tx| {
        let accounts = book_all(tx, std::slice::from_ref(booking), false)?;
        Ok(Amount(
            accounts.get(account).map_or(0, |account| account.cents),
        ))
    })
}

/// Books `bookings` in order and returns the accounts that they change. If `create_accounts` is set,
/// missing accounts are opened. The transaction must not have read any data before.
pub(crate) fn book_all(
    tx: &mut Transaction<'_, Ledger>,
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
        let (from, to) = (booking.from.as_ref(), &booking.to);
        if let Some(from) = from {
            add_entry(tx, &mut accounts, from, -booking.cents, Some(to), booking)?;
        }
        add_entry(tx, &mut accounts, to, booking.cents, from, booking)?;
    }
    for (name, account) in &accounts {
        tx.set(Item::new(ACCOUNTS, name, Record::Account(account.clone())))?;
    }
    Ok(accounts)
}

/// Adds an entry to the account `name`, whose other side is the account `other`.
fn add_entry(
    tx: &mut Transaction<'_, Ledger>,
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
        date: booking.date.clone().unwrap_or_else(today),
        cents,
        balance,
        other: other.map(Name::to_string),
        note: booking.note.clone(),
    };
    // Zero-padded, so that the order of the sort keys is that of the numbers.
    let number = format!("{:020}", account.entries);
    account.cents = balance;
    account.entries += 1;
    tx.create(Item::new(
        entries_of(name.as_str()),
        number,
        Record::Entry(entry),
    ))?;
    Ok(())
}
