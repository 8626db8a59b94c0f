//! The files that can be imported: bookings as CSV or JSON lines, and exported ledgers.

use crate::book::Booking;
use crate::error::CommandError;
use crate::values::{Amount, Name};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const FLIGHTS_HEADER: [&str; 5] = ["date", "delay", "distance", "origin", "destination"];

/// The contents of a file.
pub(crate) enum Input {
    Bookings(Vec<Booking>),
    /// The text of an exported ledger.
    Ledger(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: Option<String>,
    to: String,
    amount: String,
    date: Option<String>,
    note: Option<String>,
}

/// Reads the whole file at `path`, or standard input if it is `-`. All lines are read before any is
/// booked, so that an invalid line stops the import before it begins.
pub(crate) fn read(path: &Path) -> Result<Input, CommandError> {
    let bytes = read_bytes(path).map_err(|error| error.to_string());
    let input = bytes.and_then(|bytes| parse(&bytes));
    input.map_err(|problem| CommandError::Input(format!("cannot import {path:?}: {problem}")))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Input, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line}: not valid UTF-8")
    })?;
    // Some programs begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    let Some(first) = first else {
        return Err("the file contains no bookings".to_owned());
    };
    let is_exported = |line: &str| match serde_json::from_str(line) {
        Ok(serde_json::Value::Object(fields)) => fields.contains_key("pk"),
        _ => false,
    };
    let is_flights = |line: &str| {
        let mut records = csv_reader(line).into_records();
        matches!(records.next(), Some(Ok(fields)) if fields.iter().eq(FLIGHTS_HEADER))
    };
    let bookings = if is_exported(first) {
        return Ok(Input::Ledger(text.to_owned()));
    } else if is_flights(first) {
        parse_flights(text)?
    } else {
        parse_json_lines(text)?
    };
    if bookings.is_empty() {
        return Err("the file contains no bookings".to_owned());
    }
    Ok(Input::Bookings(bookings))
}

/// Returns a reader of CSV, in which fields may be quoted.
fn csv_reader(text: &str) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes())
}

fn parse_flights(text: &str) -> Result<Vec<Booking>, String> {
    let mut bookings = Vec::new();
    for record in csv_reader(text).into_records().skip(1) {
        let record = record.map_err(|error| error.to_string())?;
        if record.iter().all(str::is_empty) {
            continue;
        }
        let number = record.position().map_or(0, csv::Position::line);
        let booking = parse_flight(&record);
        bookings.push(booking.map_err(|problem| format!("line {number}: {problem}"))?);
    }
    Ok(bookings)
}

fn parse_flight(record: &csv::StringRecord) -> Result<Booking, String> {
    let fields: Vec<&str> = record.iter().collect();
    let [date, delay, distance, origin, destination] = fields[..] else {
        return Err(format!("expected 5 fields, found {}", fields.len()));
    };
    let delay: i64 = delay
        .parse()
        .map_err(|_| format!("the delay {delay:?} is not a number"))?;
    let booking = Booking::new(
        Some(origin.parse()?),
        destination.parse()?,
        distance.parse()?,
    )?;
    Ok(Booking {
        date: Some(date.to_owned()),
        note: Some(format!("delay {delay}")),
        ..booking
    })
}

fn parse_json_lines(text: &str) -> Result<Vec<Booking>, String> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let parse = |(number, line): (u64, &str)| {
        let booking = parse_json(line);
        booking.map_err(|problem| format!("line {number}: {problem}"))
    };
    lines.map(parse).collect()
}

fn parse_json(line: &str) -> Result<Booking, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        error
            .to_string()
            .replace(" at line 1 column ", " at column ")
    })?;
    let from: Option<Name> = line.from.map(|from| from.parse()).transpose()?;
    let amount: Amount = line.amount.parse()?;
    let booking = Booking::new(from, line.to.parse()?, amount)?;
    Ok(Booking {
        date: line.date,
        note: line.note,
        ..booking
    })
}
