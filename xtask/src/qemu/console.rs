//! What a guest writes on its console, and waiting for words of it.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A console that fills while it is read. Bounded: a guest that writes without end stops being kept, not listened to.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    start: Instant,
    text: String,
    /// Time of each line's end, since the start.
    ends: Vec<Duration>,
    closed: bool,
}

/// Characters kept.
const LIMIT: usize = 16 << 20;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// The pattern with this index; its last character is just before the offset.
    Found(usize, usize),
    /// Time is up.
    Late,
    /// The guest is gone.
    Closed,
}

impl Console {
    /// Starts a thread that reads `stream` to its end. `echo` shows each piece as it comes.
    pub fn follow(mut stream: impl Read + Send + 'static, echo: bool) -> Self {
        let state = State {
            start: Instant::now(),
            text: String::new(),
            ends: Vec::new(),
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let console = Self(shared);
        let writer = console.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut bytes) {
                let piece = String::from_utf8_lossy(&bytes[..len]).replace('\r', "");
                if echo {
                    print!("{piece}");
                    let _ = std::io::Write::flush(&mut std::io::stdout());
                }
                writer.push(&piece);
            }
            writer.lock().closed = true;
            writer.0.changed.notify_all();
        });
        console
    }

    fn push(&self, piece: &str) {
        let mut state = self.lock();
        if state.text.len() + piece.len() <= LIMIT {
            state.text.push_str(piece);
            let now = state.start.elapsed();
            state.ends.extend(piece.matches('\n').map(|_| now));
        }
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one of `patterns` stands after `from`; the earliest in the text wins.
    pub fn wait(&self, patterns: &[&str], from: usize, until: Instant) -> Wait {
        let mut state = self.lock();
        loop {
            let rest = &state.text[from..];
            let found = patterns.iter().enumerate().filter_map(|(index, pattern)| {
                rest.find(pattern)
                    .map(|at| (at, index, from + at + pattern.len()))
            });
            if let Some((_, index, end)) = found.min() {
                return Wait::Found(index, end);
            }
            if state.closed {
                return Wait::Closed;
            }
            let now = Instant::now();
            if now >= until {
                return Wait::Late;
            }
            let waited = self.0.changed.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The whole line that ends or stands at `offset`.
    pub fn line_at(&self, offset: usize) -> String {
        let state = self.lock();
        let start = state.text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let end = state.text[offset..]
            .find('\n')
            .map_or(state.text.len(), |at| offset + at);
        state.text[start..end].to_owned()
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// Everything so far, each line with the time of its end in seconds.
    pub fn timed(&self) -> String {
        let state = self.lock();
        let mut out = String::new();
        for (line, text) in state.text.lines().enumerate() {
            let time = state.ends.get(line).map_or_else(
                || "     -".into(),
                |end| format!("{:6.2}", end.as_secs_f32()),
            );
            let _ = writeln!(out, "{time} {text}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn earliest_pattern_wins_and_the_next_wait_goes_on_after_it() {
        let console = Console::follow("one\r\ntwo three\n".as_bytes(), false);
        assert_eq!(
            console.wait(&["three", "two"], 0, soon()),
            Wait::Found(1, 7)
        );
        assert_eq!(
            console.wait(&["three", "two"], 7, soon()),
            Wait::Found(0, 13)
        );
        assert_eq!(console.line_at(7), "two three");
    }

    #[test]
    fn end_of_the_stream_ends_the_wait() {
        let console = Console::follow("no newline".as_bytes(), false);
        assert_eq!(console.wait(&["never"], 0, soon()), Wait::Closed);
        assert_eq!(console.timed(), "     - no newline\n");
    }

    #[test]
    fn silence_ends_with_the_deadline() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let console = Console::follow(reader, false);
        assert_eq!(
            console.wait(&["x"], 0, Instant::now() + Duration::from_millis(20)),
            Wait::Late
        );
    }
}
