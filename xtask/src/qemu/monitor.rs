//! QEMU's control socket (QMP): stop it, look into its memory, go on.

use anyhow::{Context, Result, ensure};
use qapi::{Qmp, Stream, qmp};
use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to the control socket.
pub struct Monitor(Qmp<Stream<BufReader<UnixStream>, UnixStream>>);

/// QEMU answers at once or never.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

impl Monitor {
    /// Connects; waits for a QEMU that has just been started.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let until = Instant::now() + ANSWER_LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error).context("QEMU's control socket"),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut qmp = Qmp::new(Stream::new(reader, stream));
        qmp.handshake().context("QEMU's control socket")?;
        Ok(Self(qmp))
    }

    /// Stops all CPUs.
    pub fn stop(&mut self) -> Result<()> {
        self.0.execute(&qmp::stop {}).context("QMP stop")?;
        Ok(())
    }

    /// When the machine turns itself off, it only stops: its memory can still be looked at.
    pub fn stay_when_off(&mut self) -> Result<()> {
        let action = qmp::set_action {
            shutdown: Some(qmp::ShutdownAction::pause),
            reboot: None,
            panic: None,
            watchdog: None,
        };
        self.0.execute(&action).context("QMP set-action")?;
        Ok(())
    }

    /// Waits until the machine has stopped.
    pub fn wait_stopped(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let status = self.0.execute(&qmp::query_status {});
            if !status.context("QMP query-status")?.running {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the machine still runs after {:.0} s",
                limit.as_secs_f32()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Instructions that a machine with [`super::Machine::counted`] has carried out so far, at every exception level.
    pub fn instructions(&mut self) -> Result<u64> {
        let replay = self.0.execute(&qmp::query_replay {});
        let count = replay.context("QMP query-replay")?.icount;
        u64::try_from(count).context("a count below 0")
    }

    /// Lets them go on.
    pub fn cont(&mut self) -> Result<()> {
        self.0.execute(&qmp::cont {}).context("QMP cont")?;
        Ok(())
    }

    /// Guest physical memory, as the machine has it.
    pub fn memory(&mut self, base: u64, len: u64) -> Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new()?;
        let save = qmp::pmemsave {
            val: base,
            size: len,
            filename: file.path().to_string_lossy().into_owned(),
        };
        self.0
            .execute(&save)
            .with_context(|| format!("QMP pmemsave {base:#x} {len:#x}"))?;
        Ok(fs::read(file.path())?)
    }

    /// A line of the human monitor (`xp`, `info ..`) and its answer.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let command = qmp::human_monitor_command {
            command_line: line.to_owned(),
            cpu_index: None,
        };
        self.0
            .execute(&command)
            .with_context(|| format!("monitor command `{line}`"))
    }
}
