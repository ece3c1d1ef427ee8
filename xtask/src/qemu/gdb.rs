//! QEMU's debugger socket: physical memory and device registers written while the machine stands still, even before its
//! first instruction (GDB remote serial protocol; `Qqemu.PhyMemMode` is QEMU's own, docs/system/gdb.rst).

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to the debugger socket. The machine stands still until [`Debugger::go`].
pub struct Debugger(UnixStream);

/// QEMU answers at once or never.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest packet that we take.
const PACKET: usize = 64 << 10;

impl Debugger {
    /// Connects, which halts the machine; waits for a QEMU that has just been started.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let until = Instant::now() + ANSWER_LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error).context("QEMU's debugger socket"),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut debugger = Self(stream);
        let why = debugger.ask("?")?;
        ensure!(
            why.starts_with(['T', 'S']),
            "the machine does not stand still: {why}"
        );
        debugger.want("Qqemu.PhyMemMode:1", "OK")?;
        Ok(debugger)
    }

    /// Writes `bytes` at a physical address: RAM, or registers of a device in one access where their number is 4 or 8.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.want(&format!("M{address:x},{:x}:{hex}", bytes.len()), "OK")
    }

    /// Writes a 32-bit register.
    pub fn write32(&mut self, address: u64, value: u32) -> Result<()> {
        self.write(address, &value.to_le_bytes())
    }

    /// Writes a 64-bit register.
    pub fn write64(&mut self, address: u64, value: u64) -> Result<()> {
        self.write(address, &value.to_le_bytes())
    }

    /// Reads a 32-bit register.
    pub fn read32(&mut self, address: u64) -> Result<u32> {
        let hex = self.ask(&format!("m{address:x},4"))?;
        let word = u32::from_str_radix(&hex, 16)
            .ok()
            .filter(|_| hex.len() == 8);
        Ok(word
            .with_context(|| format!("reading {address:#x}: {hex:?}"))?
            .swap_bytes())
    }

    /// Lets the machine run.
    pub fn go(&mut self) -> Result<()> {
        self.send("c")
    }

    /// Lets the machine run until a CPU is about to run the instruction at `address`.
    pub fn run_to(&mut self, address: u64) -> Result<()> {
        self.want(&format!("Z1,{address:x},1"), "OK")?;
        let why = self.ask("c")?;
        ensure!(why.starts_with('T'), "the machine ended: {why}");
        self.want(&format!("z1,{address:x},1"), "OK")
    }

    /// Halts it again.
    pub fn halt(&mut self) -> Result<()> {
        self.0.write_all(&[3])?;
        let why = self.receive()?;
        ensure!(
            why.starts_with(['T', 'S']),
            "the machine does not halt: {why}"
        );
        Ok(())
    }

    fn want(&mut self, packet: &str, answer: &str) -> Result<()> {
        let got = self.ask(packet)?;
        ensure!(got == answer, "debugger packet {packet:?}: {got:?}");
        Ok(())
    }

    fn ask(&mut self, packet: &str) -> Result<String> {
        self.send(packet)?;
        self.receive()
    }

    fn send(&mut self, packet: &str) -> Result<()> {
        self.0.write_all(framed(packet).as_bytes())?;
        match self.byte()? {
            b'+' => Ok(()),
            other => bail!("debugger packet {packet:?}: not taken ({other:#x})"),
        }
    }

    fn receive(&mut self) -> Result<String> {
        while self.byte()? != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte if packet.len() < PACKET => packet.push(byte),
                _ => bail!("a debugger packet without end"),
            }
        }
        // A stream of this kind loses nothing: the checksum needs no check.
        let _ = (self.byte()?, self.byte()?);
        self.0.write_all(b"+")?;
        Ok(String::from_utf8_lossy(&packet).into_owned())
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.0
            .read_exact(&mut byte)
            .context("QEMU's debugger socket says nothing")?;
        Ok(byte[0])
    }
}

/// `$packet#checksum`: the sum of its bytes, two digits.
fn framed(packet: &str) -> String {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    format!("${packet}#{sum:02x}")
}

#[cfg(test)]
mod tests {
    use super::framed;

    #[test]
    fn packet_carries_the_sum_of_its_bytes() {
        // The example of the protocol's documentation.
        assert_eq!(framed("OK"), "$OK#9a");
        assert_eq!(framed(""), "$#00");
    }
}
