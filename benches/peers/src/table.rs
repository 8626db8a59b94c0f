//! Tables of figures, and their Markdown.

use crate::figures::{Figures, grouped};
use crate::hot_key;
use std::fmt::Write as _;

/// The databases of this repository and its transactions, as the tables name them.
const OURS: [&str; 5] = [
    "MemoryDb",
    "LruCache",
    "RedbDb",
    "PostgresDb",
    hot_key::TRANSACT,
];

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
    /// Returns all tables of `figures`, in the order in which they were added. `style` gives the
    /// direction and the number of decimals of a table by its title.
    pub(crate) fn all(figures: &Figures, style: fn(&str) -> (Better, usize)) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for figure in &figures.all {
            let place = tables.iter().position(|table| table.title == figure.table);
            let place = place.unwrap_or_else(|| {
                let (better, decimals) = style(&figure.table);
                tables.push(Table {
                    title: figure.table.clone(),
                    better,
                    decimals,
                    rows: Vec::new(),
                });
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

    /// Returns the table as Markdown. The best number of each row is bold.
    pub(crate) fn markdown(&self) -> String {
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
                let _ = if low == high {
                    write!(text, " {number} |")
                } else {
                    write!(text, " {number} ({low}–{high}) |")
                };
            }
            text.push('\n');
        }
        text
    }

    /// Returns the rows in which a peer is ahead, each as a line of Markdown.
    pub(crate) fn rows_behind(&self) -> Vec<String> {
        let behind = |row: &Row| {
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
        self.rows.iter().filter_map(behind).collect()
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

/// Returns a peer's name in Markdown, in which `<...>` would be a tag.
fn marked(peer: &str) -> String {
    if peer.contains('<') {
        format!("`{peer}`")
    } else {
        peer.to_owned()
    }
}
