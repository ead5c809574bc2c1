//! Tables that fit a terminal. Columns that do not fit on a line move to a second line below.
//! Addresses and ids are never broken, because they are copied from here. Only words are wrapped.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Color, Table};
use std::env;
use std::io::{self, IsTerminal};

/// The space between two columns.
const GAP: usize = 2;
/// The space at the beginning of a second line.
const INDENT: usize = 2;
/// The smallest width into which words are wrapped.
const WORDS: usize = 24;

/// Where a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Screen {
    /// The number of columns. `None`: lines are not limited.
    pub width: Option<u16>,
    pub coloured: bool,
}

impl Screen {
    /// The properties of stdout. Colours are only for terminals, and not if the user wants none
    /// (no-color.org).
    pub fn of_stdout() -> Self {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let wants_none = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            width: size.map(|size| size.ws_col).filter(|columns| *columns > 0),
            coloured: io::stdout().is_terminal() && !wants_none,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub head: &'static str,
    pub kind: ColumnKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Never broken into lines.
    Whole,
    Number,
    Words,
}

pub const fn whole(head: &'static str) -> Column {
    let kind = ColumnKind::Whole;
    Column { head, kind }
}

pub const fn number(head: &'static str) -> Column {
    let kind = ColumnKind::Number;
    Column { head, kind }
}

pub const fn words(head: &'static str) -> Column {
    let kind = ColumnKind::Words;
    Column { head, kind }
}

#[derive(Debug, Clone)]
pub struct Field {
    pub text: String,
    pub colour: Option<Color>,
}

impl From<String> for Field {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

/// Returns nothing if there are no rows.
pub fn table(columns: &[Column], mut rows: Vec<Vec<Field>>, screen: Screen) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|number| {
            let texts = rows.iter().map(|row| width(&row[number].text));
            texts.max().unwrap_or(0).max(width(columns[number].head))
        })
        .collect();
    let (lines, widths) = match screen.width {
        Some(most) => arrange(columns, &widths, usize::from(most)),
        None => (vec![(0..columns.len()).collect()], widths),
    };
    for row in &mut rows {
        for (field, most) in row.iter_mut().zip(&widths) {
            if width(&field.text) > *most {
                field.text = wrap(&field.text, *most);
            }
        }
    }
    let rendered: Vec<Vec<Vec<String>>> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| {
            let indent = if number == 0 { 0 } else { INDENT };
            render(columns, &rows, line, indent, screen)
        })
        .collect();
    let mut text = String::new();
    // The head comes first.
    for row in 0..=rows.len() {
        for line in rendered.iter().flat_map(|part| &part[row]) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Which columns are on which line, and how wide each may be.
fn arrange(columns: &[Column], widths: &[usize], most: usize) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut widths = widths.to_vec();
    let total: usize = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
    let mut too_much = total.saturating_sub(most);
    for (width, column) in widths.iter_mut().zip(columns) {
        if column.kind == ColumnKind::Words && too_much > 0 {
            let given = too_much.min(width.saturating_sub(WORDS));
            *width -= given;
            too_much -= given;
        }
    }
    if too_much == 0 {
        return (vec![(0..columns.len()).collect()], widths);
    }
    let mut lines: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (number, width) in widths.iter_mut().enumerate() {
        match lines.last_mut() {
            Some(line) if *width + GAP <= room => {
                line.push(number);
                room -= *width + GAP;
            }
            _ => {
                let indent = if lines.is_empty() { 0 } else { INDENT };
                let all = most.saturating_sub(indent);
                *width = (*width).min(all.max(WORDS));
                room = all.saturating_sub(*width);
                lines.push(vec![number]);
            }
        }
    }
    (lines, widths)
}

/// The lines of each row. The first row is the head.
fn render(
    columns: &[Column],
    rows: &[Vec<Field>],
    line: &[usize],
    indent: usize,
    screen: Screen,
) -> Vec<Vec<String>> {
    let mut table = Table::new();
    let heads = line.iter().map(|&number| columns[number].head);
    table
        .load_style(NOTHING)
        .set_header(heads.collect::<Vec<_>>());
    for row in rows {
        let cells = line.iter().map(|&number| {
            let field = &row[number];
            let cell = Cell::new(&field.text);
            let cell = match columns[number].kind {
                ColumnKind::Number => cell.set_alignment(CellAlignment::Right),
                ColumnKind::Whole | ColumnKind::Words => cell,
            };
            match field.colour {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        });
        table.add_row(cells.collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP as u16));
    }
    match screen.coloured {
        true => table.enforce_styling(),
        false => table.force_no_tty(),
    };
    let text = table.trim_fmt();
    let mut all = text.lines().map(|line| format!("{:indent$}{line}", ""));
    let height = |row: &Vec<Field>| {
        let texts = line.iter().map(|&number| row[number].text.lines().count());
        texts.max().unwrap_or(1).max(1)
    };
    let heights = std::iter::once(1).chain(rows.iter().map(height));
    heights
        .map(|height| all.by_ref().take(height).collect())
        .collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Wraps at spaces, and within a word only if the word alone is too long.
fn wrap(text: &str, most: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is one from the start");
            let gap = usize::from(!line.is_empty());
            let room = most.saturating_sub(width(line));
            if word.len() + gap <= room {
                line.extend([" "; 1].into_iter().take(gap));
                line.extend(&word);
                break;
            }
            if line.is_empty() {
                let rest = word.split_off(most.max(1).min(word.len()));
                line.extend(&word);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: &[&str]) -> Vec<Field> {
        let texts = texts.iter().map(|text| Field::from((*text).to_owned()));
        texts.collect()
    }

    fn narrow(most: u16) -> Screen {
        Screen {
            width: Some(most),
            coloured: false,
        }
    }

    const COLUMNS: [Column; 4] = [
        whole("SERVER"),
        whole("CLIENT"),
        number("SESSIONS"),
        words("OUTCOME"),
    ];

    #[test]
    fn what_fits_is_one_line_a_row() {
        let rows = vec![row(&["127.0.0.1:9080", "192.0.2.7", "7", "done"])];
        let expected = "\
SERVER          CLIENT     SESSIONS  OUTCOME
127.0.0.1:9080  192.0.2.7         7  done
";
        assert_eq!(table(&COLUMNS, rows.clone(), narrow(80)), expected);
        assert_eq!(table(&COLUMNS, rows, Screen::default()), expected);
        assert_eq!(table(&COLUMNS, vec![], narrow(80)), "");
    }

    #[test]
    fn words_are_wrapped_where_there_is_room_for_them() {
        let outcome = "the file has very many errors, and each of them has words";
        let rows = vec![row(&["127.0.0.1:9080", "192.0.2.7", "7", outcome])];
        let expected = "\
SERVER          CLIENT     SESSIONS  OUTCOME
127.0.0.1:9080  192.0.2.7         7  the file has very many
                                     errors, and each of them
                                     has words
";
        assert_eq!(table(&COLUMNS, rows, narrow(64)), expected);
    }

    #[test]
    fn what_does_not_fit_goes_to_a_second_line_and_no_address_is_broken() {
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:9080";
        let rows = vec![
            row(&[address, "2001:db8:1111:2222:3333:4444:5555:7777", "7", "a"]),
            row(&["127.0.0.1:9080", "192.0.2.7", "1,000", "b"]),
        ];
        let expected = "\
SERVER
  CLIENT                                  SESSIONS  OUTCOME
[2001:db8:1111:2222:3333:4444:5555:6666]:9080
  2001:db8:1111:2222:3333:4444:5555:7777         7  a
127.0.0.1:9080
  192.0.2.7                                  1,000  b
";
        assert_eq!(table(&COLUMNS, rows, narrow(80)), expected);
    }

    #[test]
    fn a_word_that_is_too_long_is_broken_and_an_empty_text_is_none() {
        assert_eq!(wrap("aaaaa bb c", 4), "aaaa\na bb\nc");
        assert_eq!(wrap("", 4), "");
    }
}
