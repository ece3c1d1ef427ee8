//! A transaction on its way: STE, CD, both stages, and what is recorded when it ends early (IHI 0070, §3.4, §3.12).

use super::State;
use super::cd;
use super::event::Event;
use super::lookup::{BAD_CD, BAD_STE, BAD_STREAM, BAD_SUBSTREAM, STREAM_DISABLED};
use super::ste::{self, Contexts, Meaning, StageTwo};
use super::tlb::{Entry, Kind, Tag};
use super::walk::{
    ADDRESS_SIZE, CONFLICT, Class, Fault, PERMISSION, Purpose, Rights, TRANSLATION, Use, Walk,
};
use crate::model::memory::BusError;

/// Why a transaction of a device did not do what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The SMMU is gone, without power, or in service failure mode.
    Stopped,
    /// Translation is off and GBPA.ABORT is set.
    GlobalAbort,
    /// The STE says abort.
    StreamAbort,
    /// Refused with an event of this number (§7.3), whether or not it was recorded, and whether it is stage 2's.
    Fault {
        /// Event number.
        number: u8,
        /// S2.
        stage_two: bool,
    },
    /// It waits under this tag for CMD_RESUME.
    Stalled(u16),
    /// It could not even be stalled: IDR5.STALL_MAX.
    NoStall,
    /// It was let through, and memory refused it.
    Bus(BusError),
}

/// One transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub sid: u32,
    pub ssid: Option<u32>,
    pub iova: u64,
    pub how: Use,
}

/// Where faults of each stage go: recorded, stalled.
#[derive(Clone, Copy)]
struct Policy {
    one: (bool, bool),
    two: (bool, bool),
}

impl State {
    /// Translates. `quiet` for what hardware does on its own: nothing is recorded, nothing stalls.
    pub(super) fn translate(&mut self, request: &Request, quiet: bool) -> Result<u64, Denied> {
        if self.stopped() {
            return Err(Denied::Stopped);
        }
        let reach = self.config.output_bits();
        if self.registers.cr0ack & 1 == 0 {
            // §6.3.14
            if self.registers.gbpa >> 20 & 1 != 0 || request.iova >> reach != 0 {
                return Err(Denied::GlobalAbort);
            }
            self.counters.bypassed += u64::from(!quiet);
            return Ok(request.iova);
        }
        let words = match self.entry(request.sid) {
            Ok(words) => words,
            Err(event) => {
                // CR2.RECINVSID
                let silent = event.number() == BAD_STREAM && self.registers.cr2 & 2 == 0;
                return Err(self.refuse(event, quiet || silent));
            }
        };
        let plain = |number| Event::of(number, request.sid, request.ssid);
        let check = self.registers.cr0ack >> 4 & 1 != 0;
        let meaning = match ste::decode(&words, &self.config, check) {
            Ok(meaning) => meaning,
            Err(_) => return Err(self.refuse(plain(BAD_STE), quiet)),
        };
        let Meaning::Translate {
            one,
            two,
            vmid,
            el2,
            overrides,
            ..
        } = meaning
        else {
            return Err(Denied::StreamAbort);
        };
        let mut request = *request;
        match overrides.0 {
            2 => request.how.privileged = false,
            3 => request.how.privileged = true,
            _ => {}
        }
        match overrides.1 {
            2 => request.how.execute = false,
            3 => request.how.execute = !request.how.write,
            _ => {}
        }
        let Some(contexts) = one else {
            if request.ssid.is_some() {
                return Err(self.refuse(plain(BAD_SUBSTREAM), quiet));
            }
            return self.without_stage_one(&request, two.as_ref(), vmid, quiet);
        };
        let ssid = match request.ssid {
            None if contexts.log2 == 0 => 0,
            None => match contexts.without_substream {
                0 => return Err(self.refuse(plain(STREAM_DISABLED), quiet)),
                1 => return self.without_stage_one(&request, two.as_ref(), vmid, quiet),
                _ => 0,
            },
            // S1DSS = 0b10 keeps substream 0 for transactions without one.
            Some(0) if contexts.log2 != 0 && contexts.without_substream == 2 => {
                return Err(self.refuse(plain(STREAM_DISABLED), quiet));
            }
            Some(ssid) if u64::from(ssid) >> contexts.log2 == 0 && contexts.log2 != 0 => ssid,
            Some(_) => return Err(self.refuse(plain(BAD_SUBSTREAM), quiet)),
        };
        self.with_stage_one(&request, ssid, &contexts, two.as_ref(), (vmid, el2), quiet)
    }

    fn without_stage_one(
        &mut self,
        request: &Request,
        two: Option<&StageTwo>,
        vmid: u16,
        quiet: bool,
    ) -> Result<u64, Denied> {
        let reach = self.config.output_bits();
        let policy = |two: Option<&StageTwo>| Policy {
            one: (true, false),
            two: two.map_or((true, false), |two| (two.record, two.stall)),
        };
        if request.iova >> reach != 0 {
            // §3.4: past IAS there is an Address Size fault before stage 2.
            let fault = Fault {
                number: ADDRESS_SIZE,
                two: false,
                class: Class::Input,
                ipa: 0,
                fetch: 0,
            };
            return Err(self.fault(request, &fault, policy(two), quiet));
        }
        let Some(two) = two else {
            return Ok(request.iova);
        };
        let purpose = Purpose {
            how: request.how,
            class: Class::Input,
            quiet,
            from: (request.sid, request.ssid, request.iova),
        };
        let found = self.stage_two(two, Tag::stage_two(vmid), request.iova, purpose);
        found
            .map(|(_, at)| at)
            .map_err(|fault| self.fault(request, &fault, policy(Some(two)), quiet))
    }

    fn with_stage_one(
        &mut self,
        request: &Request,
        ssid: u32,
        contexts: &Contexts,
        two: Option<&StageTwo>,
        (vmid, el2): (u16, bool),
        quiet: bool,
    ) -> Result<u64, Denied> {
        let from = (request.sid, request.ssid, request.iova);
        let mut policy = Policy {
            one: (true, false),
            two: two.map_or((true, false), |two| (two.record, two.stall)),
        };
        let under = two.map(|two| (two, vmid));
        let words = match self.context(contexts, under, from, ssid, quiet) {
            Ok(words) => words,
            Err(Ok(event)) => return Err(self.refuse(event, quiet)),
            Err(Err(fault)) => return Err(self.fault(request, &fault, policy, quiet)),
        };
        let context = cd::decode(&words, &self.config, contexts.no_stalls);
        let Ok(context) = context else {
            let event = Event::of(BAD_CD, request.sid, request.ssid);
            return Err(self.refuse(event, quiet));
        };
        policy.one = (context.record, context.stall);
        let mut fault = Fault {
            number: TRANSLATION,
            two: false,
            class: Class::Input,
            ipa: 0,
            fetch: 0,
        };
        // Bit 55 says which half, with or without tags in the top byte (DDI 0487, D8.2).
        let upper = request.iova >> 55 & 1;
        let Some(half) = context.halves[upper as usize] else {
            return Err(self.fault(request, &fault, policy, quiet));
        };
        let mut va = request.iova;
        if half.tbi {
            va = (va << 8) as i64 as u64 >> 8 | if upper != 0 { 0xff << 56 } else { 0 };
        }
        let width = half.regime.input_bits;
        let inside = if upper != 0 { !va } else { va };
        if inside >> width != 0 {
            return Err(self.fault(request, &fault, policy, quiet));
        }
        let input = va & (u64::MAX >> (64 - width));
        let kind = if two.is_some() {
            Kind::Combined
        } else {
            Kind::One
        };
        let tag = Tag {
            kind,
            el2,
            vmid: if el2 { 0 } else { vmid },
            asid: Some(context.asid),
        };
        let global = Tag { asid: None, ..tag };
        let hit = self
            .tlb
            .lookup(tag, va)
            .or_else(|| self.tlb.lookup(global, va));
        let hit = hit.filter(|(_, entry)| !(entry.clean && request.how.write));
        if let Some((base, entry)) = hit {
            self.counters.hits += 1;
            if !request.how.allowed(&entry.one) {
                fault.number = PERMISSION;
                return Err(self.fault(request, &fault, policy, quiet));
            }
            if !request.how.allowed(&entry.two) {
                fault.number = PERMISSION;
                fault.two = true;
                fault.ipa = entry.ipa + (va - base);
                return Err(self.fault(request, &fault, policy, quiet));
            }
            return Ok(entry.output + (va - base));
        }
        let walk = Walk {
            regime: &half.regime,
            tag,
            under: two,
            had: half.had,
            high: va - input,
            quiet,
            from,
        };
        let leaf = match self.walk(&walk, input) {
            Ok(leaf) => leaf,
            Err(fault) => return Err(self.fault(request, &fault, policy, quiet)),
        };
        let flags = (el2, context.wxn, context.pan);
        let (rights, clean) = self.rights_one(&half.regime, &leaf, request.how, flags, quiet);
        let allowed = request.how.allowed(&rights);
        let base = va - (input - leaf.base);
        let mut entry = Entry {
            size: leaf.size,
            output: leaf.output,
            level: leaf.level,
            granule: half.regime.granule,
            one: rights,
            two: Rights::ALL,
            ipa: leaf.output,
            span: (base, leaf.size),
            clean,
            from,
        };
        let mut at = base;
        let mut denied_two = None;
        if let (Some(two), true) = (two, allowed) {
            let ipa = leaf.output + (va - base);
            let tag = Tag {
                kind: Kind::Two,
                asid: None,
                ..tag
            };
            let purpose = Purpose {
                how: request.how,
                class: Class::Input,
                quiet,
                from,
            };
            let found = self.stage_two(two, tag, ipa, purpose);
            match found {
                Ok(((start, second), _)) => {
                    entry.two = second.two;
                    entry.clean |= second.clean;
                    // The smaller of both: a piece of the larger one.
                    if second.size < entry.size {
                        at = va & !(second.size - 1);
                        entry.size = second.size;
                        entry.output = second.output;
                        entry.ipa = start;
                    } else {
                        entry.output = second.output + (leaf.output - start);
                    }
                }
                Err(fault) => denied_two = Some(fault),
            }
        }
        if let Some(fault) = denied_two {
            return Err(self.fault(request, &fault, policy, quiet));
        }
        if !allowed {
            fault.number = PERMISSION;
            return Err(self.fault(request, &fault, policy, quiet));
        }
        // nG
        let owner = if !el2 && leaf.descriptor >> 11 & 1 == 0 {
            global
        } else {
            tag
        };
        if let Err(number) = self.remember(owner, at, entry) {
            fault.number = number;
            return Err(self.fault(request, &fault, policy, quiet));
        }
        Ok(entry.output + (va - at))
    }

    /// Keeps an entry. `Err`: software changed a block or table without break-before-make.
    pub(super) fn remember(&mut self, tag: Tag, base: u64, entry: Entry) -> Result<(), u8> {
        if let Err(at) = self.tlb.insert(tag, base, entry)
            && self.config.bbml == 0
        {
            self.violation(
                "3.21.1.1",
                alloc::format!("no break-before-make: {base:#x} overlaps the entry at {at:#x}"),
            );
            return Err(CONFLICT);
        }
        Ok(())
    }

    /// Ends a transaction that met an event of configuration.
    fn refuse(&mut self, event: Event, quiet: bool) -> Denied {
        if !quiet {
            self.record(event);
        }
        Denied::Fault {
            number: event.number(),
            stage_two: false,
        }
    }

    /// Ends or stalls a transaction that met a fault of translation (§3.12).
    fn fault(&mut self, request: &Request, fault: &Fault, policy: Policy, quiet: bool) -> Denied {
        let denied = Denied::Fault {
            number: fault.number,
            stage_two: fault.two,
        };
        if quiet {
            return denied;
        }
        let (record, stall) = if fault.two { policy.two } else { policy.one };
        let Request {
            sid,
            ssid,
            iova,
            how,
        } = *request;
        let event = Event::of_fault(fault, sid, ssid, iova, how);
        let gated = (0x10..=0x13).contains(&fault.number);
        if stall && gated {
            return match self.stall(request) {
                Some(tag) => {
                    self.record(event.stalled(tag));
                    Denied::Stalled(tag)
                }
                None => Denied::NoStall,
            };
        }
        if record || !gated {
            self.record(event);
        }
        denied
    }
}
