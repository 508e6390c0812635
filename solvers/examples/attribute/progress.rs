//! A bar for what is running, and a line for what is done.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One stage of the run. The bar shows on a terminal; elsewhere only the line at the end does.
#[derive(Debug)]
pub(crate) struct Stage {
    name: &'static str,
    bar: ProgressBar,
    start: Instant,
}

impl Stage {
    /// Starts a stage of `len` units of work.
    pub(crate) fn new(name: &'static str, len: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix:>18} [{bar:32}] {pos}/{len} {msg} {elapsed}, {eta} left")
            .expect("the template is well formed")
            .progress_chars("=> ");
        let bar = ProgressBar::new(len as u64).with_style(style).with_prefix(name);
        // The clock moves on while a unit takes long.
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { name, bar, start: Instant::now() }
    }

    /// Says which unit is being worked on.
    pub(crate) fn show(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// One unit is done.
    pub(crate) fn tick(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away and leaves a line with what was done and how long it took.
    pub(crate) fn finish(self, what: &str) {
        self.bar.finish_and_clear();
        eprintln!("{:>18}  {what} in {:.1} s", self.name, self.start.elapsed().as_secs_f64());
    }
}
