//! One physical console for all: output is cut into lines that say whose they are, input goes to one partition.
//!
//! Output of a partition is kept until its line is complete, is full, or has been idle ([`Console::show_kept`]), so that a
//! line on the wire never mixes two sources. The partition *selected* for input is shown at once, so that a prompt is visible; where
//! another's line comes in between, the prompt is cut off and drawn again at the next flush.
//!
//! `Ctrl-]` (0x1d) is the escape: then a digit selects a partition, `?` lists them, `s` asks for statistics, a second
//! `Ctrl-]` goes to the partition.

use crate::gather::Gather;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use heapless::Vec as Bounded;

/// Bytes of one line that are kept; a longer one is cut in two.
pub const LINE_LEN: usize = 256;
/// Starts a command in the input.
pub const ESCAPE: u8 = 0x1d;
/// Name in front of the hypervisor's own lines.
const OWN_NAME: &str = "sluice";

/// Where the physical console is.
pub trait Sink {
    /// Sends `bytes`, in order.
    fn put(&mut self, bytes: &[u8]);
}

/// Whose output it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The hypervisor.
    Hypervisor,
    /// A partition, by number. Numbers that do not exist are ignored.
    Partition(usize),
}

/// What a byte of input means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Nothing to do: it was part of a command, or there is nobody to get it.
    Done,
    /// It is for a partition.
    For(usize, u8),
    /// Somebody wants to know how the machine is doing.
    Statistics,
}

/// See the module's description.
pub struct Console {
    /// The hypervisor's, then one a partition.
    lines: Vec<Line>,
    selected: Option<usize>,
    /// The line that is on the wire without its end.
    open: Option<usize>,
    escaped: bool,
}

struct Line {
    name: String,
    text: Bounded<u8, LINE_LEN>,
    /// How much of `text` is on the wire: more than 0 only for the open line.
    shown: usize,
    /// A carriage return came last: whether it belongs to a line's end is known with the next byte.
    returned: bool,
}

impl Console {
    /// For partitions with these names; the first one is selected.
    pub fn new<'a>(partitions: impl IntoIterator<Item = &'a str>) -> Self {
        let names = core::iter::once(OWN_NAME).chain(partitions);
        let lines: Vec<Line> = names.map(Line::new).gather();
        Self {
            selected: (lines.len() > 1).then_some(1),
            lines,
            open: None,
            escaped: false,
        }
    }

    /// The partition that gets input.
    pub fn selected(&self) -> Option<usize> {
        self.selected.map(|line| line - 1)
    }

    /// Output of `source`.
    pub fn write(&mut self, source: Source, bytes: &[u8], sink: &mut impl Sink) {
        let Some(at) = self.line_of(source) else {
            return;
        };
        for &byte in bytes {
            self.accept(at, byte, sink);
        }
        if self.selected == Some(at) {
            self.show(at, sink);
        }
    }

    /// A line of the hypervisor's own, without its end.
    pub fn print(&mut self, text: fmt::Arguments<'_>, sink: &mut impl Sink) {
        struct Own<'c, S>(&'c mut Console, &'c mut S);
        impl<S: Sink> Write for Own<'_, S> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(Source::Hypervisor, text.as_bytes(), self.1);
                Ok(())
            }
        }
        // Writing here does not fail; a formatting implementation that does has only cut its own line short.
        let _ = Own(self, sink).write_fmt(text);
        self.write(Source::Hypervisor, b"\n", sink);
    }

    /// Whether some output of `partition` is not on the wire.
    pub fn keeps(&self, partition: usize) -> bool {
        let line = partition.checked_add(1).and_then(|at| self.lines.get(at));
        line.is_some_and(|line| line.shown < line.text.len())
    }

    /// Nothing came from `partition` for a while: shows what is kept of it, the selected one's as a prompt.
    pub fn show_kept(&mut self, partition: usize, sink: &mut impl Sink) {
        if !self.keeps(partition) {
            return;
        }
        if self.selected() == Some(partition) {
            self.show(partition + 1, sink);
        } else {
            self.complete(partition + 1, sink);
        }
    }

    /// `source` starts afresh or is gone: ends its line.
    pub fn end(&mut self, source: Source, sink: &mut impl Sink) {
        if let Some(at) = self.line_of(source) {
            self.lines[at].returned = false;
            if !self.lines[at].text.is_empty() {
                self.complete(at, sink);
            }
        }
    }

    /// A byte from the physical console.
    pub fn input(&mut self, byte: u8, sink: &mut impl Sink) -> Input {
        if self.escaped == (byte == ESCAPE) {
            // Not in a command, or the escape twice.
            self.escaped = false;
            return self
                .selected()
                .map_or(Input::Done, |to| Input::For(to, byte));
        }
        if !self.escaped {
            self.escaped = true;
            return Input::Done;
        }
        self.escaped = false;
        match byte {
            b's' => return Input::Statistics,
            b'0'..=b'9' => self.select(usize::from(byte - b'0'), sink),
            b'?' => self.list(sink),
            _ => self.print(
                format_args!(
                    "Ctrl-] then 0-9: input to that partition, ?: list, s: statistics, Ctrl-]: itself"
                ),
                sink,
            ),
        }
        Input::Done
    }

    fn select(&mut self, partition: usize, sink: &mut impl Sink) {
        let Some(line) = self.lines.get(partition + 1) else {
            return self.print(format_args!("no partition {partition}"), sink);
        };
        let name = line.name.clone();
        self.selected = Some(partition + 1);
        self.print(format_args!("input to {partition} {name}"), sink);
        self.show(partition + 1, sink);
    }

    fn list(&mut self, sink: &mut impl Sink) {
        for partition in 0..self.lines.len() - 1 {
            let mark = if self.selected() == Some(partition) {
                '*'
            } else {
                ' '
            };
            let name = self.lines[partition + 1].name.clone();
            self.print(format_args!("{mark} {partition} {name}"), sink);
        }
    }

    fn line_of(&self, source: Source) -> Option<usize> {
        match source {
            Source::Hypervisor => Some(0),
            Source::Partition(number) => number.checked_add(1).filter(|&at| at < self.lines.len()),
        }
    }

    fn accept(&mut self, at: usize, byte: u8, sink: &mut impl Sink) {
        let returned = core::mem::replace(&mut self.lines[at].returned, byte == b'\r');
        match byte {
            b'\n' => self.complete(at, sink),
            b'\r' => {}
            _ => {
                if returned {
                    self.push(at, b'\r', sink);
                }
                self.push(at, byte, sink);
            }
        }
    }

    fn push(&mut self, at: usize, byte: u8, sink: &mut impl Sink) {
        if self.lines[at].text.is_full() {
            self.complete(at, sink);
        }
        // There is room: the line has just been emptied if it was full.
        let _ = self.lines[at].text.push(byte);
    }

    /// Puts the rest of a line and its end on the wire.
    fn complete(&mut self, at: usize, sink: &mut impl Sink) {
        self.show_rest(at, sink);
        sink.put(b"\r\n");
        self.open = None;
        self.lines[at].text.clear();
        self.lines[at].shown = 0;
    }

    /// Puts the line on the wire as far as it has come.
    fn show(&mut self, at: usize, sink: &mut impl Sink) {
        if self.lines[at].shown < self.lines[at].text.len() {
            self.show_rest(at, sink);
        }
    }

    fn show_rest(&mut self, at: usize, sink: &mut impl Sink) {
        if self.open != Some(at) {
            if let Some(other) = self.open.replace(at) {
                self.lines[other].shown = 0;
                sink.put(b"\r\n");
            }
            self.lines[at].put_name(sink);
        }
        let raw = self.selected == Some(at);
        self.lines[at].put_text(raw, sink);
    }
}

impl Line {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            text: Bounded::new(),
            shown: 0,
            returned: false,
        }
    }

    fn put_name(&self, sink: &mut impl Sink) {
        sink.put(b"[");
        sink.put(self.name.as_bytes());
        sink.put(b"] ");
    }

    /// What is not shown yet. Only the selected partition drives the terminal (`raw`); from others, control characters
    /// would let one write over another's lines.
    fn put_text(&mut self, raw: bool, sink: &mut impl Sink) {
        for &byte in &self.text[self.shown..] {
            match byte {
                // Back at the first column: what follows must not replace the name.
                b'\r' if raw => {
                    sink.put(b"\r");
                    self.put_name(sink);
                }
                b'\t' | b' '..=b'~' | 0x80.. => sink.put(&[byte]),
                _ if raw => sink.put(&[byte]),
                _ => sink.put(b"."),
            }
        }
        self.shown = self.text.len();
    }
}

#[cfg(test)]
mod tests;
