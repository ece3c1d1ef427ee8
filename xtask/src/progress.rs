//! How a step is shown: one line a step, with the time that passed while it runs, and how it ended.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many steps are under way, each within the one before.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// A step that is under way. On a terminal the line shows the seconds; elsewhere a line every 15 seconds does.
/// Dropped without [`Step::done`], it says that the step failed.
pub struct Step {
    name: String,
    start: Instant,
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Starts to show a step.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let start = Instant::now();
        let level = UNDER_WAY.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = channel();
        let terminal = stderr().is_terminal();
        let shown = name.clone();
        let ticker = std::thread::spawn(move || {
            let (first, every) = match terminal {
                true => (Duration::from_secs(1), Duration::from_secs(1)),
                false => (Duration::from_secs(2), Duration::from_secs(15)),
            };
            let mut wait = first;
            while receiver.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                // A step within this one speaks for both.
                if UNDER_WAY.load(Ordering::Relaxed) > level {
                    continue;
                }
                let seconds = start.elapsed().as_secs();
                if terminal {
                    eprint!("\r{shown} .. {seconds} s");
                } else {
                    eprintln!("{shown} .. {seconds} s");
                }
                let _ = stderr().flush();
                wait = every;
            }
        });
        Self {
            name,
            start,
            stop: Some((sender, ticker)),
        }
    }

    /// The step succeeded.
    pub fn done(mut self) {
        self.end(Some("done"));
    }

    /// The step is over, and somebody else says how it went.
    pub fn over(mut self) {
        self.end(None);
    }

    /// The step succeeded, and there is something to say about it.
    pub fn done_with(mut self, result: &str) {
        self.end(Some(result));
    }

    fn end(&mut self, result: Option<&str>) {
        let Some((sender, ticker)) = self.stop.take() else {
            return;
        };
        drop(sender);
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        let _ = ticker.join();
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        if let Some(result) = result {
            eprintln!(
                "{}: {result} ({:.1} s)",
                self.name,
                self.start.elapsed().as_secs_f32()
            );
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end(Some("FAILED"));
    }
}
