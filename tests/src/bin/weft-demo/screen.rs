//! What the demo puts on the screen: steps, lines, and a moving sign while something takes long.
//!
//! Colours and the sign are for terminals only; elsewhere it is plain text.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Stream, Style};

/// How many steps there are.
const STEPS: u32 = 7;

/// Standard output, with a count of the steps shown.
pub struct Screen {
    step: std::cell::Cell<u32>,
}

impl Screen {
    /// An empty one.
    pub fn new() -> Self {
        Self { step: std::cell::Cell::new(0) }
    }

    /// Begins a step.
    pub fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        let number = format!("[{}/{STEPS}]", self.step.get());
        println!("\n{} {}", style(&number, Style::new().cyan()), style(title, Style::new().bold()));
    }

    /// A heading that is no step.
    pub fn heading(&self, title: &str) {
        println!("\n{}", style(title, Style::new().bold()));
    }

    /// A line of plain text.
    pub fn line(&self, text: &str) {
        println!("  {text}");
    }

    /// A command that was run, as one would type it.
    pub fn command(&self, text: &str) {
        println!("  {} {text}", style("$", Style::new().green()));
    }

    /// What a command printed, indented.
    pub fn output(&self, text: &str) {
        for line in text.lines() {
            println!("    {}", style(line, Style::new().dimmed()));
        }
    }

    /// What has been shown to be so.
    pub fn seen(&self, text: &str) {
        println!("  {} {text}", style("✓", Style::new().green()));
    }

    /// What was not as claimed.
    pub fn failure(&self, error: &anyhow::Error) {
        let step = self.step.get();
        eprintln!("\n{} in step {step}: {error:#}", style("failed", Style::new().red().bold()));
    }

    /// Does something that may take a while, with a sign that it does.
    pub fn busy<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        let outcome = work();
        bar.finish_and_clear();
        outcome
    }

    /// Rows in columns as wide as their widest cell, the first row as heading.
    pub fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let line = cells.join("  ");
            let line = line.trim_end();
            if number == 0 { println!("  {}", style(line, Style::new().dimmed())) } else { println!("  {line}") }
        }
    }
}

fn style(text: &str, style: Style) -> String {
    text.if_supports_color(Stream::Stdout, |t| t.style(style)).to_string()
}
