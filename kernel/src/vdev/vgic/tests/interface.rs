//! A CPU interface with list registers, as hardware has it (IHI 0069, §6.2 and §12.3), written from the document with
//! its own bit numbers.

use crate::vdev::vgic::LrState;

const STATE: u64 = 3 << 62;
const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 2 << 62;

/// What a deactivation did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deactivation {
    /// A list register or the counter took it; a physical interrupt ended with it.
    Done(Option<u32>),
    /// The write trapped.
    Trapped,
}

/// One CPU's.
pub struct Interface {
    pub state: LrState,
    /// Priorities that run, the most urgent last.
    pub running: Vec<u8>,
    /// LPIs become active in their list register, as on some implementations.
    pub lpis_become_active: bool,
}

impl Interface {
    /// After reset, then opened: all priorities, both groups.
    pub fn new(count: usize) -> Self {
        let state = LrState {
            lr: [0; 16],
            used: 0,
            count,
            hcr: 0,
            vmcr: 0xf8 << 24 | 3,
        };
        Self {
            state,
            running: Vec::new(),
            lpis_become_active: false,
        }
    }

    pub fn split(&self) -> bool {
        self.state.vmcr & 1 << 9 != 0
    }

    pub fn set_split(&mut self, split: bool) {
        self.state.vmcr = self.state.vmcr & !(1 << 9) | u64::from(split) << 9;
    }

    /// The list register that would be acknowledged.
    fn best(&self) -> Option<usize> {
        let mask = (self.state.vmcr >> 24) as u8;
        let running = self.running.last().copied().unwrap_or(0xff);
        (0..self.state.count)
            .filter(|&n| {
                let lr = self.state.lr[n];
                let priority = (lr >> 48) as u8;
                let group = lr >> 60 & 1;
                lr & STATE == PENDING
                    && self.state.vmcr >> group & 1 != 0
                    && priority < mask
                    && priority < running
            })
            .min_by_key(|&n| (self.state.lr[n] >> 48) as u8)
    }

    /// Whether an interrupt is signalled to the CPU.
    pub fn signals(&self) -> bool {
        self.best().is_some()
    }

    /// A read of `ICC_IAR`: the INTID and its priority.
    pub fn acknowledge(&mut self) -> Option<(u32, u8)> {
        let n = self.best()?;
        let lr = &mut self.state.lr[n];
        let intid = *lr as u32;
        let priority = (*lr >> 48) as u8;
        *lr &= !STATE;
        if intid < 8192 || self.lpis_become_active {
            *lr |= ACTIVE;
        }
        self.running.push(priority);
        Some((intid, priority))
    }

    /// A write of `ICC_EOIR`.
    pub fn end(&mut self, intid: u32) -> Option<u32> {
        self.running.pop().expect("something runs");
        if self.split() && intid < 8192 {
            return None;
        }
        self.deactivate(intid)
    }

    /// A write of `ICC_DIR`.
    pub fn direct(&mut self, intid: u32) -> Deactivation {
        if self.state.hcr & 1 << 14 != 0 {
            return Deactivation::Trapped;
        }
        assert!(self.split() && intid < 8192);
        Deactivation::Done(self.deactivate(intid))
    }

    fn deactivate(&mut self, intid: u32) -> Option<u32> {
        let active = |lr: &&mut u64| **lr as u32 == intid && **lr & ACTIVE != 0;
        if let Some(lr) = self.state.lr[..self.state.count].iter_mut().find(active) {
            *lr &= !ACTIVE;
            (*lr >> 61 & 1 != 0).then_some((*lr >> 32) as u32 & 0x1fff)
        } else {
            if intid < 8192 {
                self.state.hcr += 1 << 27;
            }
            None
        }
    }

    /// Whether the maintenance interrupt is asserted.
    pub fn maintenance(&self) -> bool {
        let lrs = &self.state.lr[..self.state.count];
        let enabled = |bit: u32| self.state.hcr >> bit & 1 != 0;
        let ended = lrs
            .iter()
            .any(|lr| lr & STATE == 0 && lr >> 61 & 1 == 0 && lr >> 41 & 1 != 0);
        let underflow = lrs.iter().filter(|&&lr| lr & STATE != 0).count() <= 1;
        let not_found = self.state.hcr >> 27 & 0x1f != 0;
        let none_pending = !lrs.iter().any(|lr| lr & STATE == PENDING);
        enabled(0)
            && (ended
                || enabled(1) && underflow
                || enabled(2) && not_found
                || enabled(3) && none_pending)
    }

    /// What the architecture forbids software to write.
    pub fn check(&self) {
        let lrs = &self.state.lr;
        assert!(
            lrs[self.state.count..].iter().all(|&lr| lr == 0),
            "beyond the last list register"
        );
        let used: Vec<u64> = lrs.iter().copied().filter(|lr| lr & STATE != 0).collect();
        for (n, lr) in used.iter().enumerate() {
            assert!(
                used[..n].iter().all(|other| *other as u32 != *lr as u32),
                "an INTID twice: {lr:#x}"
            );
            assert!(
                !(lr >> 61 & 1 != 0 && lr & STATE == STATE),
                "physical, pending and active: {lr:#x}"
            );
            assert_eq!(lr >> 48 & 7, 0, "priority bits that do not exist: {lr:#x}");
            assert_eq!(lr & (0x7 << 45 | 0x7 << 56), 0, "reserved bits: {lr:#x}");
        }
        assert_eq!(
            self.state.hcr & !(1 | 1 << 2 | 1 << 3 | 1 << 14 | 0x1f << 27),
            0,
            "{:#x}",
            self.state.hcr
        );
    }
}
