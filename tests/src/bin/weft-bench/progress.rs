//! How far it is: a bar on a terminal, a line per phase elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where the run stands.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    /// At the beginning.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg} {wide_bar} {pos}/{len}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, begun: Instant::now() }
    }

    /// Begins a phase of this many steps.
    pub fn phase(&self, what: &str, steps: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(steps as u64);
                bar.set_position(0);
                bar.set_message(what.to_owned());
            }
            None => eprintln!("bench: [{:>3} s] {what}", self.begun.elapsed().as_secs()),
        }
    }

    /// One step is done.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// What went wrong and did not stop the run.
    pub fn trouble(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("bench: {what}")),
            None => eprintln!("bench: {what}"),
        }
    }

    /// How long it took so far.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
