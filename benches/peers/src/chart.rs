//! Charts of tables: a panel for each row, a bar for each peer.

use crate::table::{Better, Row, Table};
use std::fmt::Write as _;

const BAR: f64 = 17.0;
const GAP: f64 = 4.0;
const NAMES: f64 = 118.0;
const BARS: f64 = 190.0;
const NUMBERS: f64 = 92.0;
const PANEL: f64 = NAMES + BARS + NUMBERS;
const COLUMNS: usize = 2;
const MARGIN: f64 = 18.0;
const TITLE: f64 = 58.0;
const HEADING: f64 = 28.0;

/// A bar that is more than this many times as long as that of atomic-db is cut.
const CUT: f64 = 5.0;

const OURS: &str = "#c2410c";
const PEERS: &str = "#64748b";
const INK: &str = "#1e293b";
const PALE: &str = "#64748b";

/// Draws the table as SVG.
pub(crate) fn draw(table: &Table) -> String {
    let panels: Vec<String> = table.rows.iter().map(|row| panel(table, row)).collect();
    let heights: Vec<f64> = table
        .rows
        .iter()
        .map(|row| height(row.cells.len()))
        .collect();
    // Each panel goes to the shorter column, so that both end at about the same height.
    let mut below = [TITLE; COLUMNS];
    let mut body = String::new();
    for (panel, height) in panels.iter().zip(&heights) {
        let column = (0..COLUMNS).min_by(|a, b| below[*a].total_cmp(&below[*b]));
        let column = column.unwrap_or(0);
        let (x, y) = (MARGIN + column as f64 * (PANEL + MARGIN), below[column]);
        let _ = writeln!(
            body,
            "<g transform=\"translate({x:.0} {y:.0})\">\n{panel}</g>"
        );
        below[column] += height;
    }
    let width = MARGIN + COLUMNS as f64 * (PANEL + MARGIN);
    let bottom = below.iter().copied().fold(0.0, f64::max) + MARGIN;
    let title = escape(&table.title);
    let direction = match table.better {
        Better::Less => "shorter is better; a bar with a gap is cut, its number is exact",
        Better::More => "longer is better",
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{bottom:.0}\" \
         viewBox=\"0 0 {width:.0} {bottom:.0}\" role=\"img\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"{INK}\">{title}</text>\n\
         <text x=\"{MARGIN}\" y=\"44\" fill=\"{PALE}\">{direction}</text>\n\
         {body}</svg>\n"
    )
}

fn height(bars: usize) -> f64 {
    HEADING + bars as f64 * (BAR + GAP) + 14.0
}

fn panel(table: &Table, row: &Row) -> String {
    let longest = row.cells.iter().map(|cell| cell.value).fold(0.0, f64::max);
    let ours = row.cells.iter().find(|cell| table.is_ours(&cell.peer));
    let end = match (table.better, ours) {
        (Better::Less, Some(ours)) => longest.min(ours.value * CUT),
        _ => longest,
    };
    let end = end.max(f64::MIN_POSITIVE);
    let mut text = format!(
        "<text x=\"0\" y=\"14\" font-size=\"13\" font-weight=\"600\" fill=\"{INK}\">{}</text>\n",
        escape(&row.name)
    );
    for (place, cell) in row.cells.iter().enumerate() {
        let y = HEADING - 6.0 + place as f64 * (BAR + GAP);
        let base = y + BAR - 4.5;
        let is_cut = cell.value > end * 1.001;
        let length = (BARS * cell.value / end).clamp(0.5, BARS);
        let fill = if table.is_ours(&cell.peer) {
            OURS
        } else {
            PEERS
        };
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"{INK}\">{}</text>\n\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{fill}\"/>",
            NAMES - 7.0,
            escape(&cell.peer)
        );
        let mut reach = length;
        if is_cut {
            let gap = NAMES + BARS - 18.0;
            let _ = writeln!(
                text,
                "<path d=\"M {gap} {:.1} l 5 {BAR} h 5 l -5 -{BAR} z\" fill=\"white\"/>",
                y
            );
        } else if cell.low < cell.high {
            let place = |value: f64| NAMES + (BARS * value / end).clamp(0.0, BARS);
            let middle = y + BAR / 2.0;
            reach = reach.max(place(cell.high) - NAMES);
            let _ = writeln!(
                text,
                "<path d=\"M {:.1} {middle:.1} H {:.1}\" stroke=\"{INK}\" stroke-width=\"1.5\"/>",
                place(cell.low),
                place(cell.high)
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{base:.1}\" fill=\"{INK}\">{}</text>",
            NAMES + reach + 7.0,
            table.number(cell.value)
        );
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
