//! The administration queue of an NVMe controller (NVM Express Base Specification 1.4), one command at a time.

use crate::pci::{Function, register};
use crate::runtime::{barrier, now_ns};
use crate::tree::Tree;
use core::sync::atomic::{AtomicU64, Ordering};

// Registers (3.1).
const CAPABILITIES_HIGH: u64 = 0x04;
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1c;
const QUEUE_SIZES: u64 = 0x24;
const SUBMISSION_BASE: u64 = 0x28;
const COMPLETION_BASE: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
/// Enabled; entries of 64 and 16 bytes.
const ENABLE: u32 = 0x0046_0001;
const READY: u32 = 1;
/// CSTS.CFS.
const FATAL: u32 = 2;
// Commands (5, figure 139).
const GET_LOG: u64 = 0x02;
const IDENTIFY: u64 = 0x06;
const MANAGE: u64 = 0x1c;
/// Entries of both queues.
const ENTRIES: u32 = 16;
const DEADLINE_NS: u64 = 5_000_000_000;

/// 4 KiB for the device: atomics, because it writes behind our back.
#[repr(align(4096))]
struct Page([AtomicU64; 512]);

static SUBMISSION: Page = Page([const { AtomicU64::new(0) }; 512]);
static COMPLETION: Page = Page([const { AtomicU64::new(0) }; 512]);
static DATA: Page = Page([const { AtomicU64::new(0) }; 512]);

/// Why a command brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Status code type and status code.
    Status(u16),
    /// The controller said nothing in time, or that it is beyond help.
    Silent,
}

/// A controller.
pub struct Nvme {
    function: Function,
    registers: u64,
    tail: u32,
    head: u32,
    phase: bool,
}

impl Nvme {
    /// QEMU's, if this guest owns one: a physical function and a virtual one look alike.
    pub fn find(tree: &Tree<'_>) -> Option<Self> {
        let function = Function::find(tree, 0x1b36, 0x0010)?;
        Some(Self {
            function,
            registers: function.enable(),
            tail: 0,
            head: 0,
            phase: true,
        })
    }

    /// Starts the controller over, with empty queues. A secondary one is ready only while it is online.
    pub fn start(&mut self) -> bool {
        self.write(CONFIGURATION, 0);
        if !self.wait(|status| status & READY == 0) {
            return false;
        }
        for page in [&SUBMISSION, &COMPLETION] {
            page.0
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        (self.tail, self.head, self.phase) = (0, 0, true);
        self.write(QUEUE_SIZES, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        for (at, page) in [
            (SUBMISSION_BASE, &SUBMISSION),
            (COMPLETION_BASE, &COMPLETION),
        ] {
            let base = page.0.as_ptr() as u64;
            self.write(at, base as u32);
            self.write(at + 4, (base >> 32) as u32);
        }
        barrier();
        self.write(CONFIGURATION, ENABLE);
        self.wait(|status| status & READY != 0) && self.read(STATUS) & FATAL == 0
    }

    /// Function level reset, and the function in its place again.
    pub fn reset(&mut self) -> bool {
        let done = self.function.reset();
        self.registers = self.function.enable();
        done
    }

    /// Identify: what `cns` names, 4 KiB that are good until the next one.
    pub fn identify(&mut self, cns: u32) -> Result<&'static [AtomicU64; 512], Failure> {
        self.command(IDENTIFY, DATA.0.as_ptr() as u64, [cns, 0])?;
        Ok(&DATA.0)
    }

    /// Virtualization Management (5.22): `action` on controller `id`, with `count` resources of `kind`.
    pub fn manage(&mut self, id: u16, action: u32, kind: u32, count: u16) -> Result<u32, Failure> {
        let word = u32::from(id) << 16 | kind << 8 | action;
        self.command(MANAGE, 0, [word, count.into()])
    }

    /// Has the controller write 64 bytes of its health log to `address`, as the device sees addresses.
    pub fn write_memory(&mut self, address: u64) -> Result<u32, Failure> {
        self.command(GET_LOG, address, [15 << 16 | 2, 0])
    }

    fn command(&mut self, opcode: u64, data: u64, words: [u32; 2]) -> Result<u32, Failure> {
        let entry = 8 * self.tail as usize;
        // Opcode, and in dword 1 the namespace: all of them, where it matters.
        let head = opcode
            | if opcode == GET_LOG {
                0xffff_ffff << 32
            } else {
                0
            };
        let last = u64::from(words[1]) << 32 | u64::from(words[0]);
        let words = [head, 0, 0, data, 0, last, 0, 0];
        for (place, word) in SUBMISSION.0[entry..entry + 8].iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.tail = (self.tail + 1) % ENTRIES;
        barrier();
        self.write(DOORBELLS, self.tail);
        let place = 2 * self.head as usize;
        let end = now_ns() + DEADLINE_NS;
        let status = loop {
            let status = (COMPLETION.0[place + 1].load(Ordering::Relaxed) >> 48) as u16;
            if (status & 1 != 0) == self.phase {
                break status >> 1;
            }
            if now_ns() > end || self.read(STATUS) & FATAL != 0 {
                return Err(Failure::Silent);
            }
        };
        barrier();
        let result = COMPLETION.0[place].load(Ordering::Relaxed) as u32;
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        let stride = 4 << (self.read(CAPABILITIES_HIGH) & 0xf);
        self.write(DOORBELLS + stride, self.head);
        match status & 0x7ff {
            0 => Ok(result),
            code => Err(Failure::Status(code)),
        }
    }

    fn wait(&self, done: impl Fn(u32) -> bool) -> bool {
        let end = now_ns() + DEADLINE_NS;
        loop {
            let status = self.read(STATUS);
            if done(status) {
                return true;
            }
            if status & FATAL != 0 || now_ns() > end {
                return false;
            }
        }
    }

    fn read(&self, offset: u64) -> u32 {
        register(self.registers + offset).read()
    }

    fn write(&self, offset: u64, value: u32) {
        register(self.registers + offset).write(value);
    }
}
