//! The physical function of an Intel 82576 (datasheet 321027, chapter 8 for registers; 7.10 for virtual functions), and the
//! mailboxes by which the drivers of its virtual functions (VFs) ask for what is not theirs to set.

use crate::pci::{Function, register};
use crate::runtime::{now_ns, sleep_ms};
use crate::tree::Tree;

// Registers (8.2 to 8.14).
const CTRL: u64 = 0x0000;
const STATUS: u64 = 0x0008;
const CTRL_EXT: u64 = 0x0018;
const MDIC: u64 = 0x0020;
const RCTL: u64 = 0x0100;
const TCTL: u64 = 0x0400;
const MAILBOX_MEMORY: u64 = 0x0800;
const MAILBOX: u64 = 0x0c00;
const MAILBOX_CAUSES: u64 = 0x0c80;
const FUNCTION_RESETS: u64 = 0x0c88;
const RECEIVE_ENABLE: u64 = 0x0c8c;
const TRANSMIT_ENABLE: u64 = 0x0c90;
const GPIE: u64 = 0x1514;
const SWITCH: u64 = 0x3500;
const MULTICAST_TABLE: u64 = 0x5200;
const ADDRESSES: u64 = 0x5400;
const MULTIPLE_QUEUES: u64 = 0x5818;
const VT_CTL: u64 = 0x581c;
const OFFLOADS: u64 = 0x5ad0;

// CTRL (8.2.1), STATUS (8.2.2), CTRL_EXT (8.2.3), MDIC (8.2.4).
const SET_LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
const LINK_UP: u32 = 1 << 1;
const RESET_DONE: u32 = 1 << 14;
const PHY_WRITE: u32 = 1 << 26 | 1 << 21;
/// Register 0 of the PHY: negotiate, from the start.
const NEGOTIATE: u32 = 0x1200;
const PHY_READY: u32 = 1 << 28;
// GPIE (8.8.1): messages of their own, cleared by being sent.
const MESSAGES: u32 = 1 << 31 | 1 << 30 | 1 << 4 | 1;
// RCTL (8.10.1): on, broadcasts, no checksum stored. TCTL (8.12.1): on, short frames padded.
const RECEIVE: u32 = 1 << 1 | 1 << 15 | 1 << 26;
const TRANSMIT: u32 = 1 << 1 | 1 << 3;
/// MRQC (8.10.9): queues by VMDq.
const BY_POOL: u32 = 0b011;
/// VT_CTL (8.10.13): frames that are nobody's go to nobody; those for several are copied.
const NO_DEFAULT_COPIES: u32 = 1 << 29 | 1 << 30;
/// DTXSWC (8.12.6): frames between VFs, each of which sends under its own address only.
const BETWEEN_POOLS: u32 = 1 << 31 | 0xff;
// VMOLR (8.14.20).
const LONG: u32 = 1 << 16;
const UNTAGGED: u32 = 1 << 24;
const BY_MULTICAST_TABLE: u32 = 1 << 25;
const BROADCASTS: u32 = 1 << 27;
const NO_CHECKSUM: u32 = 1 << 31;
const LENGTH: u32 = 0x3fff;
/// RAH (8.10.18): valid; bit of the first pool.
const ADDRESS_VALID: u32 = 1 << 31;
const POOL: u32 = 1 << 18;

// P2VMAILBOX (8.14.3): a message is there, one was read, the buffer is ours.
const SENT: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const OURS: u32 = 1 << 3;
// MBVFICR (8.14.4), of VF 0.
const REQUEST: u32 = 1 << 0;
const ACKNOWLEDGED: u32 = 1 << 16;

// Messages, as Linux has them (drivers/net/ethernet/intel/igb/e1000_mbx.h): what is asked, and what comes of it.
const ASK_RESET: u32 = 0x01;
const ASK_ADDRESS: u32 = 0x02;
const ASK_MULTICAST: u32 = 0x03;
const ASK_LENGTH: u32 = 0x05;
const PING: u32 = 0x0100;
const DONE: u32 = 1 << 31;
const REFUSED: u32 = 1 << 30;
const CLEAR_TO_SEND: u32 = 1 << 29;
/// Words of a mailbox.
const WORDS: u64 = 16;
/// From one ping to the next.
const PING_NS: u64 = 500_000_000;
const LINK_NS: u64 = 10_000_000_000;

/// How many VFs there are at most.
pub const MOST: usize = 8;

/// The physical function.
pub struct Igb {
    registers: u64,
    /// VFs that have said who they are, and may send.
    clear: [bool; MOST],
    /// They have not read what was last said to them.
    unread: [bool; MOST],
    next_ping: u64,
}

impl Igb {
    /// The card, if this guest owns one.
    pub fn find(tree: &Tree<'_>) -> Option<Self> {
        let function = Function::find(tree, 0x8086, 0x10c9)?;
        Some(Self {
            registers: function.enable(),
            clear: [false; MOST],
            unread: [false; MOST],
            next_ping: 0,
        })
    }

    /// How many VFs the card has on now.
    pub fn vfs(&self) -> usize {
        (self.read(STATUS) >> 14 & 0xf) as usize
    }

    /// Out of reset, with its link, for VFs that none of has said anything yet. Whether the link is there.
    pub fn start(&mut self) -> bool {
        self.write(CTRL, self.read(CTRL) | RESET);
        sleep_ms(10);
        self.write(CTRL, self.read(CTRL) | SET_LINK_UP);
        self.write(MDIC, PHY_WRITE | NEGOTIATE);
        self.write(GPIE, MESSAGES);
        self.write(MULTIPLE_QUEUES, BY_POOL);
        self.write(VT_CTL, NO_DEFAULT_COPIES);
        self.write(SWITCH, BETWEEN_POOLS);
        self.write(RCTL, RECEIVE);
        self.write(TCTL, TRANSMIT);
        let end = now_ns() + LINK_NS;
        while self.read(MDIC) & PHY_READY == 0 || self.read(STATUS) & LINK_UP == 0 {
            if now_ns() > end {
                return false;
            }
        }
        // From here on their drivers get answers.
        self.write(CTRL_EXT, self.read(CTRL_EXT) | RESET_DONE);
        true
    }

    /// Answers what VFs have asked; how many requests that were.
    pub fn serve(&mut self) -> usize {
        let mut served = 0;
        for vf in 0..MOST {
            let resets = self.read(FUNCTION_RESETS) & 1 << vf;
            if resets != 0 {
                self.write(FUNCTION_RESETS, resets);
                self.clear[vf] = false;
            }
            let causes = self.read(MAILBOX_CAUSES);
            if causes & ACKNOWLEDGED << vf != 0 {
                self.write(MAILBOX_CAUSES, ACKNOWLEDGED << vf);
                self.unread[vf] = false;
            }
            if causes & REQUEST << vf != 0 && self.take(vf) {
                self.write(MAILBOX_CAUSES, REQUEST << vf);
                self.answer(vf);
                served += 1;
            }
        }
        if now_ns() > self.next_ping {
            self.next_ping = now_ns() + PING_NS;
            self.ping();
        }
        served
    }

    /// A driver takes its link for up once it has been spoken to.
    fn ping(&mut self) {
        for vf in 0..MOST {
            if self.clear[vf] && !self.unread[vf] && self.take(vf) {
                self.say(vf, &[PING | CLEAR_TO_SEND]);
            }
        }
    }

    /// Reads the request of `vf`, whose buffer is ours, and answers it.
    fn answer(&mut self, vf: usize) {
        let mut words = [0; WORDS as usize];
        for (word, at) in words.iter_mut().zip((0..).step_by(4)) {
            *word = self.read(mailbox(vf) + at);
        }
        self.write(MAILBOX + 4 * vf as u64, READ);
        let asked = words[0] & 0xffff;
        if asked == ASK_RESET {
            let address = self.reset(vf);
            self.clear[vf] = true;
            if self.take(vf) {
                self.say(vf, &[ASK_RESET | DONE, address[0], address[1]]);
            }
            return;
        }
        let done = self.clear[vf]
            && match asked {
                // It has the one that it was given.
                ASK_ADDRESS => [words[1], words[2] & 0xffff] == address_of(vf),
                ASK_MULTICAST => self.accept_multicast(vf, &words),
                ASK_LENGTH => self.accept_length(vf, words[1]),
                _ => false,
            };
        let outcome = if done { DONE } else { REFUSED };
        if self.take(vf) {
            self.say(vf, &[asked | outcome | CLEAR_TO_SEND]);
        }
    }

    /// Lets `vf` send, and receive what is for its address, which it gets here.
    fn reset(&self, vf: usize) -> [u32; 2] {
        let address = address_of(vf);
        // Number 0 is the card's own.
        let entry = ADDRESSES + 8 * (vf as u64 + 1);
        self.write(entry, address[0]);
        self.write(entry + 4, address[1] | POOL << vf | ADDRESS_VALID);
        self.write(offloads(vf), UNTAGGED | BROADCASTS | NO_CHECKSUM);
        for enable in [RECEIVE_ENABLE, TRANSMIT_ENABLE] {
            self.write(enable, self.read(enable) | 1 << vf);
        }
        address
    }

    /// Hashes of addresses, two in a word behind the first, which counts them.
    fn accept_multicast(&self, vf: usize, words: &[u32; WORDS as usize]) -> bool {
        let count = (words[0] >> 16 & 0xff) as usize;
        let hashes = words[1..]
            .iter()
            .flat_map(|word| [word & 0xffff, word >> 16]);
        for hash in hashes.take(count) {
            let place = MULTICAST_TABLE + 4 * u64::from(hash >> 5 & 0x7f);
            self.write(place, self.read(place) | 1 << (hash & 0x1f));
        }
        self.write(offloads(vf), self.read(offloads(vf)) | BY_MULTICAST_TABLE);
        true
    }

    fn accept_length(&self, vf: usize, bytes: u32) -> bool {
        let fits = bytes <= LENGTH;
        if fits {
            let others = self.read(offloads(vf)) & !LENGTH;
            self.write(offloads(vf), others | LONG | bytes);
        }
        fits
    }

    /// Takes the buffer of `vf`; not while the VF has it.
    fn take(&self, vf: usize) -> bool {
        let control = MAILBOX + 4 * vf as u64;
        self.write(control, OURS);
        self.read(control) & OURS != 0
    }

    /// Says `words` to `vf`, whose buffer is ours, and leaves it to it.
    fn say(&mut self, vf: usize, words: &[u32]) {
        for (word, at) in words.iter().zip((0..).step_by(4)) {
            self.write(mailbox(vf) + at, *word);
        }
        self.unread[vf] = true;
        self.write(MAILBOX + 4 * vf as u64, SENT);
    }

    fn read(&self, offset: u64) -> u32 {
        register(self.registers + offset).read()
    }

    fn write(&self, offset: u64, value: u32) {
        register(self.registers + offset).write(value);
    }
}

/// The address of `vf`, 02:53:4c:55:49:NN, in the byte order of the card's registers and of its messages.
fn address_of(vf: usize) -> [u32; 2] {
    [0x554c_5302, 0x0049 | (vf as u32 + 1) << 8]
}

fn mailbox(vf: usize) -> u64 {
    MAILBOX_MEMORY + 4 * WORDS * vf as u64
}

fn offloads(vf: usize) -> u64 {
    OFFLOADS + 4 * vf as u64
}
