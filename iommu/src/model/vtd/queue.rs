//! The invalidation queue (6.5.2).

use super::State;
use super::cache::Scope;
use super::config::Completion;
use super::registers::{IQE, ITE, QIES};
use super::requests::Response;

/// What a descriptor asks for.
enum Decoded {
    Forget(Scope),
    /// Where the status goes, and what it is; whether there is an interrupt; PD.
    Wait(Option<(u64, u32)>, bool, bool),
    Respond(Response),
}

/// IQERCD.IQEI (11.4).
mod error {
    pub const UNREADABLE: u64 = 2;
    pub const TYPE: u64 = 3;
    pub const RESERVED: u64 = 4;
}

impl State {
    /// Bytes of the queue, and of a descriptor.
    fn geometry(&self) -> (u64, u64) {
        let wide = self.registers.iqa >> 11 & 1;
        (4096 << (self.registers.iqa & 7), 16 << wide)
    }

    /// A write of IQA.
    pub(super) fn write_queue(&mut self, value: u64) {
        if self.registers.is_on(QIES) {
            self.violation("11.4, IQA", "written while the queue is on".into());
        }
        self.registers.iqa = value;
    }

    /// A write of IQT.
    pub(super) fn write_tail(&mut self, value: u64) {
        let (size, step) = self.geometry();
        if !value.is_multiple_of(step) || value >= size {
            let what = alloc::format!("{value:#x} of {size:#x} bytes");
            self.violation("11.4, IQT", what);
        }
        self.registers.iqt = value & (size - 1) & !(step - 1);
        self.serve_queue();
    }

    /// Takes descriptors until there are none, or one that it does not understand.
    pub(super) fn serve_queue(&mut self) {
        let (size, step) = self.geometry();
        while self.registers.is_on(QIES)
            && self.registers.iqh != self.registers.iqt
            && self.registers.fsts & (IQE | ITE) == 0
            && !self.faults.hang
        {
            let at = (self.registers.iqa & !0xfff) + self.registers.iqh;
            let words = self.read(at).zip(self.read(at + 8));
            let rest = match step {
                32 => self.read(at + 16).zip(self.read(at + 24)),
                _ => Some((0, 0)),
            };
            if self.is_scalable() && step == 16 {
                self.violation("6.5.2", "128-bit descriptors in scalable mode".into());
            }
            let decoded = match words {
                None => Err(error::UNREADABLE),
                Some((first, second)) => {
                    if let Some(code) = self.is_refused(first) {
                        Err(code)
                    } else if rest != Some((0, 0)) {
                        Err(error::RESERVED)
                    } else {
                        self.decode([first, second])
                    }
                }
            };
            match decoded {
                Err(code) => {
                    self.registers.iqercd = code;
                    let first = self.registers.fsts == 0 && !self.registers.pending();
                    self.registers.fsts |= IQE;
                    return self.raise_event(first);
                }
                Ok(what) => {
                    if let Some((first, second)) = words {
                        self.log.push([first, second]);
                    }
                    if matches!(what, Decoded::Wait(..))
                        && let Some(source) = self.faults.time_out.take()
                    {
                        // 6.5.2.11: what was on its way is not complete, and no wait will say that it is.
                        self.registers.iqercd = u64::from(source) << 32;
                        self.registers.iqh = self.registers.iqt;
                        self.waiting.clear();
                        let first = self.registers.fsts == 0 && !self.registers.pending();
                        self.registers.fsts |= ITE;
                        return self.raise_event(first);
                    }
                    self.execute(what);
                }
            }
            self.registers.iqh = (self.registers.iqh + step) % size;
        }
    }

    /// The code with which a descriptor is to be refused.
    fn is_refused(&mut self, first: u64) -> Option<u64> {
        let (kind, code, left) = self.faults.refuse?;
        if u64::from(kind) != first & 0xf {
            return None;
        }
        self.faults.refuse = match left {
            0 => None,
            _ => Some((kind, code, left - 1)),
        };
        (left == 0).then_some(code)
    }

    fn execute(&mut self, what: Decoded) {
        match what {
            Decoded::Forget(scope) => {
                self.counters.descriptors += 1;
                if let Scope::DeviceTlb { source, .. } = scope {
                    self.requests.told.push(source);
                }
                match self.config.completion {
                    Completion::AtOnce => self.forget(&scope),
                    Completion::AtWait => self.waiting.push(scope),
                }
            }
            Decoded::Respond(response) => {
                self.counters.descriptors += 1;
                self.page_response(response);
            }
            Decoded::Wait(status, interrupt, drains) => {
                self.counters.waits += 1;
                for scope in core::mem::take(&mut self.waiting) {
                    self.forget(&scope);
                }
                self.land();
                self.drain_page_requests(drains);
                if let Some((at, data)) = status {
                    let bytes = data.to_le_bytes();
                    let written = self
                        .memory
                        .device_write_bytes(at, &bytes, self.config.coherent);
                    if written.is_err() {
                        self.violation("6.5.2.9", alloc::format!("no memory at {at:#x}"));
                    }
                } else if !interrupt {
                    self.violation("6.5.2.9", "a wait that tells nobody".into());
                }
            }
        }
    }

    /// Every bit that is not a field is reserved (6.5.2).
    fn decode(&self, [first, second]: [u64; 2]) -> Result<Decoded, u64> {
        let within = |word: u64, fields: u64| match word & !fields {
            0 => Ok(()),
            _ => Err(error::RESERVED),
        };
        let granularity = first >> 4 & 3;
        let scope = match first & 0xf {
            1 => {
                within(first, 0x0003_ffff_ffff_003f)?;
                within(second, 0)?;
                Scope::contexts(granularity, first >> 16, first >> 32, first >> 48 & 3)
            }
            2 => {
                within(first, 0xffff_00ff)?;
                within(second, 0xffff_ffff_ffff_f07f)?;
                let drains = first >> 6 & 3 != 0;
                if drains && !self.config.drains {
                    return Err(error::RESERVED);
                }
                Scope::translations(granularity, first >> 16, second, self.config.page_mask)
            }
            4 if self.config.interrupt_remapping => {
                within(first, 0xffff_f800_001f)?;
                within(second, 0)?;
                Some(match first >> 4 & 1 {
                    0 => Scope::AllInterrupts,
                    _ => {
                        let count = 1u64 << (first >> 27 & 0x1f).min(16);
                        let start = first >> 32 & 0xffff & !(count - 1);
                        Scope::Interrupts {
                            first: start as u16,
                            last: (start + count - 1) as u16,
                        }
                    }
                })
            }
            3 if self.config.device_tlbs => {
                within(first, 0xfff0_ffff_001f_f00f)?;
                within(second, 0xffff_ffff_ffff_f001)?;
                Some(Scope::device(first >> 32, Some(None), second, 0))
            }
            8 if self.config.device_tlbs && self.config.pasid_bits != 0 => {
                within(first, 0xffff_ffff_ffff_f1ff)?;
                within(second, 0xffff_ffff_ffff_f801)?;
                let pasid = (first >> 32) as u32 & 0xf_ffff;
                let which = (second & 1 == 0).then_some(Some(pasid));
                Some(Scope::device(first >> 16, which, second, 11))
            }
            6 if self.config.scalable => {
                within(first, 0x000f_ffff_ffff_003f)?;
                within(second, 0xffff_ffff_ffff_f07f)?;
                if granularity == 2 {
                    within(second, 0)?;
                }
                let largest = self.config.page_mask;
                Scope::first_stage(granularity, first >> 16, first >> 32, second, largest)
            }
            7 if self.config.scalable => {
                within(first, 0x000f_ffff_ffff_003f)?;
                within(second, 0)?;
                Scope::pasids(granularity, first >> 16, first >> 32)
            }
            9 if self.config.page_requests && self.is_scalable() => {
                within(first, 0x000f_ffff_ffff_f01f)?;
                within(second, 0xfff)?;
                let response = Response::of([first, second]);
                return response.map(Decoded::Respond).ok_or(error::RESERVED);
            }
            5 => {
                let drains = u64::from(self.config.page_requests) << 7;
                within(first, 0xffff_ffff_0000_007f | drains)?;
                within(second, !3)?;
                let status = first >> 5 & 1 != 0;
                let status = status.then_some((second, (first >> 32) as u32));
                let drains = first >> 7 & 1 != 0;
                return Ok(Decoded::Wait(status, first >> 4 & 1 != 0, drains));
            }
            _ => return Err(error::TYPE),
        };
        scope.map(Decoded::Forget).ok_or(error::RESERVED)
    }
}
