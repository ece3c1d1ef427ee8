//! A machine that runs: its console, its input, its end. Dropped, it is killed.

use super::Machine;
use super::console::{Console, Wait};
use super::gdb::Debugger;
use super::monitor::Monitor;
use crate::setup::kit::Tool;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A machine that runs.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    console: Console,
    /// What has been waited for lies before it.
    seen: usize,
    folder: PathBuf,
    deadline: Instant,
    /// The control socket: a path in a checkout may be too long for one.
    socket: TempDir,
}

impl Guest {
    /// Starts `machine`. The command line, the console and the trace are kept in `folder`. Everything ends at `limit`.
    pub fn start(qemu: &Tool, machine: &Machine, folder: &Path, limit: Duration) -> Result<Self> {
        Self::start_with(qemu, machine, folder, limit, false)
    }

    /// The same; with `echo` the console is shown as well.
    pub fn start_with(
        qemu: &Tool,
        machine: &Machine,
        folder: &Path,
        limit: Duration,
        echo: bool,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let socket = tempfile::Builder::new().prefix("sluice").tempdir()?;
        let mut command = qemu.command();
        command
            .args(machine.args("stdio"))
            .args(["-monitor", "none", "-qmp"]);
        command.arg(format!(
            "unix:{},server=on,wait=off",
            socket.path().join(MONITOR).display()
        ));
        if machine.halted {
            let path = socket.path().join(DEBUGGER);
            command.args(["-S", "-gdb"]);
            command.arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        if !machine.trace.is_empty() {
            let events: Vec<_> = machine
                .trace
                .iter()
                .map(|pattern| format!("trace:{pattern}"))
                .collect();
            command
                .arg("-d")
                .arg(format!("guest_errors,{}", events.join(",")));
            command.arg("-D").arg(folder.join("trace.txt"));
        }
        fs::write(folder.join("command.txt"), format!("{command:?}\n"))?;
        let stderr = fs::File::create(folder.join("qemu.txt"))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("QEMU has no input or output");
        };
        Ok(Self {
            child,
            input,
            console: Console::follow(output, echo),
            seen: 0,
            folder: folder.to_owned(),
            deadline: Instant::now() + limit,
            socket,
        })
    }

    /// Waits for `pattern` after everything waited for before, and returns the line it stands in so far.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        self.wait_any(&[pattern], limit).map(|(_, line)| line)
    }

    /// Waits for one of `patterns`; returns which, and its line so far.
    pub fn wait_any(&mut self, patterns: &[&str], limit: Duration) -> Result<(usize, String)> {
        let until = self.deadline.min(Instant::now() + limit);
        let start = Instant::now();
        match self.console.wait(patterns, self.seen, until) {
            Wait::Found(index, end) => {
                self.seen = end;
                Ok((index, self.console.line_at(end)))
            }
            Wait::Late => bail!(
                "no {patterns:?} within {:.0} s; {}",
                start.elapsed().as_secs_f32(),
                self.last_line()
            ),
            Wait::Closed => bail!("QEMU ended without {patterns:?}; {}", self.last_line()),
        }
    }

    /// Waits until each of `patterns` stood somewhere after everything waited for before, in any order.
    pub fn wait_all(&mut self, patterns: &[&str], limit: Duration) -> Result<()> {
        let from = self.seen;
        let mut last = from;
        for pattern in patterns {
            self.seen = from;
            self.wait_for(pattern, limit)?;
            last = last.max(self.seen);
        }
        self.seen = last;
        Ok(())
    }

    /// Like [`Guest::wait_for`], and then for the end of the line.
    pub fn wait_line(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        self.wait_for(pattern, limit)?;
        let at = self.seen;
        self.wait_any(&["\n"], limit)?;
        Ok(self.console.line_at(at))
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("QEMU takes no input")
    }

    /// Everything on the console so far.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Trace so far; empty without any.
    pub fn trace(&self) -> Result<String> {
        let bytes = match fs::read(self.folder.join("trace.txt")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The control socket.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.socket.path().join(MONITOR))
    }

    /// The debugger socket of a machine that was started halted.
    pub fn debugger(&self) -> Result<Debugger> {
        Debugger::connect(&self.socket.path().join(DEBUGGER))
    }

    /// Waits until QEMU ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = self.deadline.min(Instant::now() + limit);
        loop {
            if let Some(status) = self.child.try_wait()? {
                // The last words may still be in the pipe.
                self.console
                    .wait(&[], 0, Instant::now() + Duration::from_secs(1));
                return Ok(status);
            }
            if Instant::now() >= until {
                bail!(
                    "still running after {:.0} s; {}",
                    limit.as_secs_f32(),
                    self.last_line()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until QEMU ends, and wants it to end well.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait_exit(limit)?;
        if !status.success() {
            bail!("QEMU ended with {status}: {}", self.own_words());
        }
        Ok(())
    }

    fn last_line(&self) -> String {
        let text = self.console.text();
        match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("last line: {line}"),
            None => format!("the console is empty {}", self.own_words()),
        }
    }

    /// What QEMU itself had to say.
    fn own_words(&self) -> String {
        let text = fs::read_to_string(self.folder.join("qemu.txt")).unwrap_or_default();
        text.lines().last().unwrap_or_default().to_owned()
    }
}

const MONITOR: &str = "monitor";
const DEBUGGER: &str = "debugger";

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::write(self.folder.join("console.txt"), self.console.timed());
    }
}
