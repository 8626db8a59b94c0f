//! Measured figures. They are kept as text between runs, so that a part can be measured on its own and
//! the report still shows all parts.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// One number of one table. If it is a median, `low` and `high` are the quartiles; otherwise they equal
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) peer: String,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// All numbers of one part, with notes on how they were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) notes: Vec<String>,
    pub(crate) all: Vec<Figure>,
}

impl Figures {
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn add(&mut self, table: &str, row: &str, peer: &str, value: f64) {
        self.add_spread(table, row, peer, [value; 3]);
    }

    /// Adds the median of `samples` between their quartiles.
    pub(crate) fn add_samples(&mut self, table: &str, row: &str, peer: &str, samples: &[f64]) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted[(sorted.len() - 1) * part / 4];
        self.add_spread(table, row, peer, [at(1), at(2), at(3)]);
    }

    fn add_spread(&mut self, table: &str, row: &str, peer: &str, [low, value, high]: [f64; 3]) {
        self.all.push(Figure {
            table: table.to_owned(),
            row: row.to_owned(),
            peer: peer.to_owned(),
            value,
            low,
            high,
        });
    }

    /// Writes the figures to `path`.
    ///
    /// # Errors
    ///
    /// Those of writing the file.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        text.push_str("table;row;peer;value;lower quartile;upper quartile\n");
        for figure in &self.all {
            let Figure {
                table,
                row,
                peer,
                value,
                low,
                high,
            } = figure;
            let _ = writeln!(text, "{table};{row};{peer};{value:.4};{low:.4};{high:.4}");
        }
        fs::write(path, text)
    }

    /// Reads the figures that were saved at `path`; none if there is no such file.
    ///
    /// # Errors
    ///
    /// A line that [`save`](Figures::save) does not write.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let Ok(text) = fs::read_to_string(path) else {
            return Ok(Figures::default());
        };
        let mut figures = Figures::default();
        for line in text.lines() {
            if let Some(note) = line.strip_prefix("# ") {
                figures.note(note);
                continue;
            }
            if line.starts_with("table;") {
                continue;
            }
            let bad = || io::Error::other(format!("{}: what is {line:?}?", path.display()));
            let fields: Vec<&str> = line.split(';').collect();
            let [table, row, peer, value, low, high] = fields[..] else {
                return Err(bad());
            };
            let number = |text: &str| text.parse::<f64>().map_err(|_| bad());
            let spread = [number(low)?, number(value)?, number(high)?];
            figures.add_spread(table, row, peer, spread);
        }
        Ok(figures)
    }
}

/// Returns a whole number with its digits in groups of three.
pub(crate) fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
