//! QEMU and the socket of its test protocol: lines of text, one answer each, in order. Lines that only write are gathered
//! and sent together.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// The variable that says which QEMU: the program and what stands before its arguments, one word a line.
const VARIABLE: &str = "SLUICE_QTEST_QEMU";

/// Lines that may wait for their answers. More of them could fill the socket in both directions.
const MOST_PENDING: usize = 100;

/// No answer takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Qtest {
    qemu: Child,
    socket: BufReader<UnixStream>,
    out: Vec<u8>,
    /// One a line that was sent: whether its answer is wanted.
    pending: Vec<bool>,
    kept: Vec<String>,
}

impl Qtest {
    /// Starts QEMU with `args` and waits until it has connected.
    pub fn start(args: &[String]) -> Self {
        let words = env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} does not say which QEMU: run `cargo xtask test qtest`")
        });
        let mut words = words.lines();
        let program = words.next().expect("a program");
        let path = socket_path();
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("it can");
        let mut qemu = Command::new(program)
            .args(words)
            .args(["-qtest", &format!("unix:{}", path.display())])
            .args(["-qtest-log", "/dev/null"])
            // Whatever ends the test ends QEMU.
            .args(["-run-with", "exit-with-parent=on"])
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let start = Instant::now();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => {
                    let ended = qemu.try_wait().expect("a child");
                    assert!(ended.is_none(), "QEMU ended: {ended:?}");
                    assert!(start.elapsed() < DEADLINE, "QEMU does not connect");
                    thread::sleep(Duration::from_millis(2));
                }
            }
        };
        fs::remove_file(&path).expect("it is there");
        stream.set_nonblocking(false).expect("it can");
        stream.set_read_timeout(Some(DEADLINE)).expect("it can");
        Self {
            qemu,
            socket: BufReader::new(stream),
            out: Vec::new(),
            pending: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Sends a line some time before the next answer is needed.
    pub fn tell(&mut self, line: &str) {
        self.line(line, false);
    }

    /// As [`tell`](Self::tell); what is answered comes from [`settle`](Self::settle).
    pub fn expect(&mut self, line: &str) {
        self.line(line, true);
    }

    /// Sends a line and returns what stands behind the `OK` of its answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.expect(line);
        self.settle().pop().expect("one was expected")
    }

    /// As [`ask`](Self::ask), for a number.
    pub fn number(&mut self, line: &str) -> u64 {
        number(&self.ask(line))
    }

    fn line(&mut self, line: &str, wanted: bool) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.push(b'\n');
        self.pending.push(wanted);
        if self.pending.len() == MOST_PENDING {
            self.exchange();
        }
    }

    /// Waits for the answers of all lines; those that were expected.
    pub fn settle(&mut self) -> Vec<String> {
        self.exchange();
        std::mem::take(&mut self.kept)
    }

    fn exchange(&mut self) {
        let sent = self.socket.get_mut().write_all(&self.out);
        self.out.clear();
        let mut line = String::new();
        for wanted in std::mem::take(&mut self.pending) {
            line.clear();
            let read = self.socket.read_line(&mut line);
            let Some(answer) = line.strip_prefix("OK") else {
                let ended = self.qemu.try_wait();
                panic!("QEMU: {line:?}, {sent:?}, {read:?}, {ended:?}");
            };
            if wanted {
                self.kept.push(answer.trim().to_owned());
            }
        }
    }
}

/// A number as QEMU answers it.
pub fn number(answer: &str) -> u64 {
    let digits = answer.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no number: {answer:?}"))
}

impl Qtest {
    /// Ends QEMU.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Qtest {
    fn drop(&mut self) {
        self.end();
    }
}

/// A name of its own for each one; short, as the names of sockets have to be.
fn socket_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("sluice-{}-{number}", std::process::id()))
}
