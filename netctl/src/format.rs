//! How answers are printed: as tables for people, as JSON or YAML for programs. Into any writer.
//!
//! JSON and YAML are the API's types as they are; tables are made by each command from a [`Page`]. Tables have no borders,
//! so that `cut` and `awk` read them; colours are for terminals only. Nothing here knows a resource. Read [`Printer`] first.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Color, Table};
use serde::Serialize;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables.
    #[default]
    Table,
    /// JSON, indented: the API's own types, which scripts may rely on.
    Json,
    /// The same as YAML.
    Yaml,
    /// Tables with all columns.
    Wide,
}

/// Why an answer is not printed.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// The reader is gone, or the disk is full.
    #[error("write the answer")]
    Write(#[from] io::Error),
    /// A value that JSON cannot hold.
    #[error("write the answer as JSON")]
    Json(#[source] serde_json::Error),
    /// A value that YAML cannot hold.
    #[error("write the answer as YAML")]
    Yaml(#[from] serde_yaml_ng::Error),
}

impl From<serde_json::Error> for PrintError {
    /// serde_json wraps the writer's own error; a broken pipe must stay recognisable.
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() { Self::Write(error.into()) } else { Self::Json(error) }
    }
}

/// Where and how to print.
pub struct Printer {
    out: Box<dyn Write>,
    output: Output,
    colour: bool,
}

impl Printer {
    /// To standard output, in colour if that is a terminal and nobody minds (`NO_COLOR`, `TERM=dumb`).
    #[must_use]
    pub fn stdout(output: Output) -> Self {
        let out = io::stdout();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let colour = out.is_terminal() && !no_colour && !dumb;
        Self { out: Box::new(io::BufWriter::new(out)), output, colour }
    }

    /// Prints a value: as it is, or as the page that `draw` makes of it.
    ///
    /// # Errors
    /// See [`PrintError`]. A reader that went away is [`io::ErrorKind::BrokenPipe`].
    pub fn show<T: Serialize + ?Sized>(&mut self, value: &T, draw: impl FnOnce(&T, &mut Page)) -> Result<(), PrintError> {
        match self.output {
            Output::Json => {
                serde_json::to_writer_pretty(&mut self.out, value)?;
                writeln!(self.out)?;
            }
            // Made in memory first: the YAML writer's error does not tell a broken pipe from other things.
            Output::Yaml => self.out.write_all(serde_yaml_ng::to_string(value)?.as_bytes())?,
            Output::Table | Output::Wide => {
                let mut page = Page::new(self.output == Output::Wide);
                draw(value, &mut page);
                page.render(&mut self.out, self.colour)?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints one of many values that come over time: a line of JSON, a YAML document, or the line that `draw` makes of it.
    ///
    /// # Errors
    /// As [`Printer::show`].
    pub fn event<T: Serialize>(&mut self, value: &T, draw: impl FnOnce(&T) -> String) -> Result<(), PrintError> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut self.out, value)?;
                writeln!(self.out)?;
            }
            Output::Yaml => write!(self.out, "---\n{}", serde_yaml_ng::to_string(value)?)?,
            Output::Table | Output::Wide => writeln!(self.out, "{}", printable(&draw(value)))?,
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints one of several documents, which have no form as a table: as YAML, or as a line of JSON.
    ///
    /// # Errors
    /// As [`Printer::show`].
    pub fn document<T: Serialize>(&mut self, value: &T) -> Result<(), PrintError> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut self.out, value)?;
                writeln!(self.out)?;
            }
            Output::Yaml | Output::Table | Output::Wide => {
                write!(self.out, "---\n{}", printable(&serde_yaml_ng::to_string(value)?))?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints bytes that have one form only.
    ///
    /// # Errors
    /// As [`Printer::show`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), PrintError> {
        self.out.write_all(bytes)?;
        self.out.flush()?;
        Ok(())
    }
}

/// What a text wants to say by its colour. Never the only carrier of a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Look here.
    Warn,
    /// Broken.
    Bad,
    /// Headings and labels.
    Strong,
    /// Of less interest.
    Weak,
}

/// A text in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text in a tone.
    #[must_use]
    pub fn toned(text: impl Display, tone: Tone) -> Self {
        Self { text: printable(&text.to_string()), tone }
    }
}

/// A text in no particular tone.
#[must_use]
pub fn cell(text: impl Display) -> Cell {
    Cell::toned(text, Tone::Plain)
}

/// The value, or a hyphen where there is none.
#[must_use]
pub fn or_none<T: Display>(value: Option<T>) -> Cell {
    value.map_or_else(|| Cell::toned('-', Tone::Weak), cell)
}

/// The values with commas between, or a hyphen where there are none.
#[must_use]
pub fn list<T: Display>(values: impl IntoIterator<Item = T>) -> Cell {
    let texts: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    or_none(Some(texts.join(", ")).filter(|t| !t.is_empty()))
}

/// `k=v` for each, with commas between.
#[must_use]
pub fn labels(labels: &std::collections::BTreeMap<String, String>) -> Cell {
    list(labels.iter().map(|(k, v)| format!("{k}={v}")))
}

/// The text without what a terminal would obey: much of what is printed was written by others.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    heading: &'static str,
    wide_only: bool,
}

/// A column that is always there.
#[must_use]
pub fn col(heading: &'static str) -> Column {
    Column { heading, wide_only: false }
}

/// A column of `-o wide`.
#[must_use]
pub fn wide(heading: &'static str) -> Column {
    Column { heading, wide_only: true }
}

/// What a command shows to people: fields, lines and tables, one below the other.
pub struct Page {
    wide: bool,
    blocks: Vec<Block>,
}

enum Block {
    Fields(Vec<(String, Cell)>),
    Heading(&'static str),
    Table { columns: Vec<&'static str>, rows: Vec<Vec<Cell>> },
}

impl Page {
    fn new(wide: bool) -> Self {
        Self { wide, blocks: Vec::new() }
    }

    /// Whether all columns are wanted, and all rows.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// A line of the list of fields; several lines where the value has several.
    pub fn field(&mut self, name: impl Display, value: Cell) {
        let field = (printable(&name.to_string()), value);
        match self.blocks.last_mut() {
            Some(Block::Fields(fields)) => fields.push(field),
            _ => self.blocks.push(Block::Fields(vec![field])),
        }
    }

    /// A heading above what follows.
    pub fn heading(&mut self, text: &'static str) {
        self.blocks.push(Block::Heading(text));
    }

    /// A table. A row without a heading's meaning cannot be written: both have `N` columns.
    pub fn table<const N: usize>(&mut self, columns: [Column; N], rows: impl IntoIterator<Item = [Cell; N]>) {
        let shown = |c: &Column| self.wide || !c.wide_only;
        let rows = rows
            .into_iter()
            .map(|row| row.into_iter().zip(&columns).filter(|(_, c)| shown(c)).map(|(cell, _)| cell).collect())
            .collect();
        let columns = columns.iter().filter(|c| shown(c)).map(|c| c.heading).collect();
        self.blocks.push(Block::Table { columns, rows });
    }

    fn render(self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        let mut below_heading = true;
        for block in self.blocks {
            if !below_heading {
                writeln!(out)?;
            }
            below_heading = matches!(block, Block::Heading(_));
            let mut table = Table::new();
            table.load_style(NOTHING);
            match block {
                Block::Heading(text) => {
                    table.add_row([paint(&Cell::toned(text, Tone::Strong))]);
                }
                Block::Fields(fields) => {
                    for (name, value) in fields {
                        table.add_row([paint(&Cell::toned(name, Tone::Strong)), paint(&value)]);
                    }
                }
                Block::Table { columns, rows } => {
                    table.set_header(columns.into_iter().map(|c| paint(&Cell::toned(c, Tone::Strong))));
                    for row in rows {
                        table.add_row(row.iter().map(paint));
                    }
                }
            }
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
            if colour {
                table.enforce_styling();
                table.style_text_only();
            } else {
                table.force_no_tty();
            }
            writeln!(out, "{}", table.trim_fmt())?;
        }
        Ok(())
    }
}

fn paint(cell: &Cell) -> comfy_table::Cell {
    let painted = comfy_table::Cell::new(&cell.text);
    match cell.tone {
        Tone::Plain => painted,
        Tone::Good => painted.fg(Color::Green),
        Tone::Warn => painted.fg(Color::Yellow),
        Tone::Bad => painted.fg(Color::Red),
        Tone::Strong => painted.add_attribute(Attribute::Bold),
        Tone::Weak => painted.add_attribute(Attribute::Dim),
    }
}

/// The page that `draw` makes, as it goes into a pipe: for tests of commands.
#[cfg(test)]
pub fn drawn(wide: bool, draw: impl FnOnce(&mut Page)) -> String {
    let mut page = Page::new(wide);
    draw(&mut page);
    let mut out = Vec::new();
    page.render(&mut out, false).unwrap();
    String::from_utf8(out).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(page: &mut Page) {
        page.field("name", cell("web"));
        page.field("reasons", cell("one\ntwo"));
        page.heading("ENDPOINTS");
        page.table([col("ID"), wide("LABELS"), col("STATE")], [[cell("a"), cell("k=v"), Cell::toned("up", Tone::Good)]]);
    }

    #[test]
    fn a_page_has_fields_headings_and_tables_without_trailing_blanks() {
        assert_eq!(drawn(false, sample), "name     web\nreasons  one\n         two\n\nENDPOINTS\nID  STATE\na   up\n");
    }

    #[test]
    fn wide_shows_all_columns() {
        assert!(drawn(true, sample).ends_with("ID  LABELS  STATE\na   k=v     up\n"));
    }

    #[test]
    fn an_empty_table_keeps_its_headings() {
        assert_eq!(drawn(false, |p| p.table([col("ID"), col("STATE")], [])), "ID  STATE\n");
    }

    #[test]
    fn colours_are_for_terminals_only() {
        let mut page = Page::new(false);
        sample(&mut page);
        let mut out = Vec::new();
        page.render(&mut out, true).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\u{1b}["));
        assert!(!drawn(false, sample).contains('\u{1b}'));
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        let text = drawn(false, |p| p.field("txt", cell("\u{1b}[2Jgone\rX")));
        assert_eq!(text, "txt  \\u{1b}[2Jgone\\rX\n");
    }

    /// A pipe whose reader is gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_pipe_is_recognised_in_every_form() {
        for output in [Output::Table, Output::Wide, Output::Json, Output::Yaml] {
            let mut printer = Printer { out: Box::new(Closed), output, colour: false };
            match printer.show("x", |v, page| page.field("value", cell(v))) {
                Err(PrintError::Write(e)) => assert_eq!(e.kind(), io::ErrorKind::BrokenPipe, "{output:?}"),
                other => panic!("{output:?}: {other:?}"),
            }
        }
    }
}
