//! The consumer of the command queue (IHI 0070, §3.5, §4.7.3, §7.1).

use alloc::vec::Vec;

use super::command::{self, Answer, Command, Signal};
use super::config::Completion;
use super::event::{CMDQ_ERR, Interrupt, MSI_CMDQ_ABT};
use super::lookup::Configuration;
use super::tlb::Scope;
use super::translate::Request;
use super::walk::Use;
use super::{Pace, State};

/// CERROR (§7.1).
const ILL: u32 = 1;
const ABT: u32 = 2;
const ATC_INV_SYNC: u32 = 3;

/// An invalidation that was consumed and need not have happened yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waiting {
    Configuration(Configuration),
    Tlb(Scope),
}

impl State {
    /// What the write of CMDQ_PROD, of CR0 or of GERRORN sets off.
    pub(super) fn doorbell(&mut self) {
        if self.config.pace == Pace::AtOnce {
            while self.consume() {}
        }
    }

    /// What a register read lets happen meanwhile.
    pub(super) fn tick(&mut self) {
        self.reads += 1;
        if let Pace::Reads(each) = self.config.pace
            && self.reads.is_multiple_of(u64::from(each.max(1)))
        {
            self.consume();
        }
    }

    /// Consumes one command, if it can. Returns whether it did.
    pub(super) fn consume(&mut self) -> bool {
        if self.stopped()
            || self.faults.hang
            || self.registers.cr0ack >> 3 & 1 == 0
            || self.active(CMDQ_ERR)
        {
            return false;
        }
        let queue = self.registers.cmdq;
        let log2 = queue.log2(self.config.command_queue_log2);
        if queue.is_empty(log2) {
            return false;
        }
        let at = queue.slot(queue.cons, log2, 16);
        let words = match (self.fetch(at), self.fetch(at + 8)) {
            (Ok(first), Ok(second)) if self.faults.fetch_aborts == 0 => [first, second],
            _ => {
                self.faults.fetch_aborts = self.faults.fetch_aborts.saturating_sub(1);
                return self.stop(ABT);
            }
        };
        if let Some((opcode, code)) = self.faults.refuse
            && opcode == words[0] as u8
        {
            self.faults.refuse = None;
            return self.stop(code);
        }
        let command = match command::decode(words, &self.config) {
            Ok(command) => command,
            Err(rule) => {
                if self.config.strict {
                    self.refused.push((words, rule.0));
                }
                return self.stop(ILL);
            }
        };
        self.log.push(words);
        if let Command::Sync(signal) = command {
            let unanswered = core::mem::take(&mut self.faults.unanswered);
            if core::mem::take(&mut self.faults.atc_timeout) || unanswered {
                return self.stop(ATC_INV_SYNC);
            }
            self.complete();
            self.registers.cmdq.cons = queue.after(queue.cons, log2);
            self.counters.syncs += 1;
            self.signal(signal);
            return true;
        }
        self.counters.commands += 1;
        self.run(command);
        self.registers.cmdq.cons = queue.after(queue.cons, log2);
        true
    }

    /// Stops at the command at CONS.
    fn stop(&mut self, code: u32) -> bool {
        let log2 = self.registers.cmdq.log2(self.config.command_queue_log2);
        let index = self.registers.cmdq.cons & ((2 << log2) - 1);
        self.registers.cmdq.cons = index | code << 24;
        self.raise(CMDQ_ERR);
        false
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Prefetch { sid, address } => {
                self.prefetch(sid, None, address.unwrap_or(0));
            }
            Command::Configuration(which) => self.defer(Waiting::Configuration(which)),
            Command::Tlb(scope) => self.defer(Waiting::Tlb(scope)),
            Command::Atc {
                sid,
                ssid,
                global,
                address,
                size,
            } => self.forget_ats(sid, (!global).then_some(ssid), address, size),
            Command::Response { sid, group, code } => self.responses.push((sid, group, code)),
            Command::Resume { sid, tag, answer } => self.resume(sid, tag, answer),
            Command::StallTerminate(sid) => self.terminate_stalls(sid),
            Command::Sync(_) => unreachable!("the caller handles it"),
        }
    }

    fn defer(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        if self.config.completion == Completion::AtOnce {
            self.apply();
        }
    }

    /// Everything before a CMD_SYNC is complete: invalidations and the transactions that used what they removed.
    fn complete(&mut self) {
        self.apply();
        self.land();
        self.entry_images_settle();
    }

    fn apply(&mut self) {
        let waiting = core::mem::take(&mut self.waiting);
        // Transactions translated before have used their entries; their writes need not have landed yet.
        let mut again: Vec<Request> = Vec::new();
        let split = self.split();
        for item in waiting {
            match item {
                Waiting::Configuration(which) => {
                    self.settled.push(which);
                    let removed = self.cache.invalidate(&which, split);
                    for (sid, ssid) in removed {
                        again.push(fetch(sid, ssid, 0));
                    }
                }
                Waiting::Tlb(scope) => {
                    let removed = self.tlb.invalidate(&scope);
                    again.extend(
                        removed
                            .into_iter()
                            .map(|(sid, ssid, at)| fetch(sid, ssid, at)),
                    );
                }
            }
        }
        if self.config.speculate {
            again.sort_by_key(|request| (request.sid, request.ssid, request.iova));
            again.dedup();
            for request in again {
                self.prefetch(request.sid, request.ssid, request.iova);
            }
        }
    }

    /// A fetch that nobody asked for: of the STE and CD, and of a translation.
    pub(super) fn prefetch(&mut self, sid: u32, ssid: Option<u32>, iova: u64) {
        if self.registers.cr0ack & 1 != 0 {
            let _ = self.translate(&fetch(sid, ssid, iova), true);
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::None => {}
            Signal::Event => self.interrupts.sev += u64::from(self.config.sev),
            Signal::Interrupt { address, data } => {
                if self.config.msi && address != 0 {
                    self.message(address, data, MSI_CMDQ_ABT);
                }
                self.interrupt(Interrupt::Sync);
            }
        }
    }

    fn resume(&mut self, sid: u32, tag: u16, answer: Answer) {
        // An unknown tag or a wrong stream has no effect (§4.7.1).
        let Some(place) = self
            .stalls
            .iter()
            .position(|stall| stall.tag == tag && stall.request.sid == sid)
        else {
            return;
        };
        let stall = self.stalls.remove(place);
        self.resumed.push((tag, stall, answer == Answer::Retry));
    }

    fn terminate_stalls(&mut self, sid: u32) {
        let all = core::mem::take(&mut self.stalls);
        for stall in all {
            if stall.request.sid == sid {
                self.resumed.push((stall.tag, stall, false));
            } else {
                self.stalls.push(stall);
            }
        }
    }
}

fn fetch(sid: u32, ssid: Option<u32>, iova: u64) -> Request {
    Request {
        sid,
        ssid,
        iova,
        how: Use::FETCH,
    }
}
