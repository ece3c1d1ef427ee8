//! ATS: what devices have cached of translations, and what they send as translated (§3.9).

use alloc::vec::Vec;

use super::device::{Initiator, pieces};
use super::event::Event;
use super::ste::{self, Meaning};
use super::tlb::{Kind, Tag};
use super::translate::{Denied, Request};
use super::walk::{Class, Purpose, Use};
use super::{SmmuModel, State};

/// Event numbers (§7.3.6, §7.3.8).
const BAD_ATS: u8 = 0x05;
const FORBIDDEN: u8 = 0x07;

impl State {
    /// ATC entries of CMD_ATC_INV (§4.5.1); `ssid` is `None` with Global.
    pub(super) fn forget_ats(
        &mut self,
        sid: u32,
        ssid: Option<Option<u32>>,
        address: u64,
        size: u32,
    ) {
        let (base, last) = if size >= 52 {
            (0, u64::MAX)
        } else {
            let bytes = 1u64 << (size + 12);
            (address & !(bytes - 1), address | (bytes - 1))
        };
        if self.faults.mute.contains(&sid) {
            self.faults.unanswered = true;
            return;
        }
        let mut removed = Vec::new();
        self.translated.retain(|key, _| {
            let (at, sub, page) = *key;
            let stays =
                at != sid || ssid.is_some_and(|ssid| sub != ssid) || page < base || page > last;
            if !stays {
                removed.push(*key);
            }
            stays
        });
        if self.config.speculate {
            // The device asks again at once; what the TLBs still have is what it gets.
            for key in removed {
                self.ask_again(key);
            }
        }
    }

    fn ask_again(&mut self, key: (u32, Option<u32>, u64)) {
        let (sid, ssid, iova) = key;
        let request = Request {
            sid,
            ssid,
            iova,
            how: Use::FETCH,
        };
        let on = !self.stopped() && self.registers.cr0ack & 1 != 0;
        let allowed = matches!(self.meaning(sid), Ok(Meaning::Translate { eats: 1, .. }));
        if on
            && allowed
            && let Ok(at) = self.translate(&request, true)
        {
            self.translated.insert(key, at & !0xfff);
        }
    }

    fn meaning(&mut self, sid: u32) -> Result<Meaning, Event> {
        let words = self.entry(sid)?;
        let check = self.registers.cr0ack >> 4 & 1 != 0;
        ste::decode(&words, &self.config, check).map_err(|_| Event::of(0x04, sid, None))
    }

    fn forbidden(&mut self, number: u8, request: &Request) -> Denied {
        let event = Event::of(number, request.sid, request.ssid);
        self.record(event.with_input(request.iova, request.how));
        Denied::Fault {
            number,
            stage_two: false,
        }
    }

    /// An ATS translation request (§3.9): the address that the device may use.
    fn ats(&mut self, request: &Request) -> Result<u64, Denied> {
        if self.stopped() || self.registers.cr0ack & 1 == 0 {
            return Err(Denied::GlobalAbort);
        }
        let (eats, two, vmid) = match self.meaning(request.sid) {
            Ok(Meaning::Abort) => return Err(Denied::StreamAbort),
            Ok(Meaning::Translate {
                eats,
                two,
                vmid,
                one,
                ..
            }) if one.is_some() || two.is_some() => (eats, two, vmid),
            _ => (0, None, 0),
        };
        if eats == 0 {
            return Err(self.forbidden(BAD_ATS, request));
        }
        let at = self.translate(request, true)?;
        if eats == 1 || two.is_none() {
            return Ok(at);
        }
        // Split stage: the device gets an IPA. The translation is in the TLB now.
        let entry = self.tlb.find(Kind::Combined, vmid, request.iova);
        let ipa = entry.map(|(base, entry)| entry.ipa + (request.iova - base));
        ipa.ok_or(Denied::StreamAbort)
    }

    /// Where a translated transaction goes (§3.9).
    fn after_ats(&mut self, request: &Request) -> Result<u64, Denied> {
        if self.stopped() || self.registers.cr0ack & 1 == 0 {
            return Err(Denied::GlobalAbort);
        }
        if !self.config.ats {
            return Err(self.forbidden(FORBIDDEN, request));
        }
        if self.registers.cr0ack >> 4 & 1 == 0 {
            // CR0.ATSCHK = 0: nothing is checked.
            return Ok(request.iova);
        }
        match self.meaning(request.sid) {
            Ok(Meaning::Translate { eats: 1, .. }) => Ok(request.iova),
            Ok(Meaning::Translate {
                eats: 2,
                two: Some(two),
                vmid,
                ..
            }) => {
                let purpose = Purpose {
                    how: request.how,
                    class: Class::Input,
                    quiet: false,
                    from: (request.sid, request.ssid, request.iova),
                };
                let found = self.stage_two(&two, Tag::stage_two(vmid), request.iova, purpose);
                found.map(|(_, at)| at).map_err(|fault| {
                    let event = Event::of_fault(
                        &fault,
                        request.sid,
                        request.ssid,
                        request.iova,
                        request.how,
                    );
                    self.record(event);
                    Denied::Fault {
                        number: fault.number,
                        stage_two: true,
                    }
                })
            }
            _ => Err(self.forbidden(FORBIDDEN, request)),
        }
    }
}

impl SmmuModel {
    /// A device asks for an address by ATS, and keeps the answer until CMD_ATC_INV.
    ///
    /// # Errors
    /// Each [`Denied`].
    pub fn ats_translate(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        write: bool,
    ) -> Result<u64, Denied> {
        let from = from.into();
        let mut state = self.state();
        let key = (from.stream, from.substream, iova & !0xfff);
        if let Some(page) = state.translated.get(&key) {
            return Ok(page + iova % 4096);
        }
        let at = state.ats(&from.request(iova, write))?;
        state.translated.insert(key, at & !0xfff);
        Ok(at)
    }

    /// A device writes to `address` as translated by ATS, or so it says.
    ///
    /// # Errors
    /// Each [`Denied`].
    pub fn translated_write(
        &self,
        from: impl Into<Initiator>,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), Denied> {
        let from = from.into();
        let mut state = self.state();
        for (at, done, count) in pieces(address, bytes.len()) {
            let pa = state.after_ats(&from.request(at, true))?;
            state
                .memory
                .device_write_bytes(pa, &bytes[done..done + count], true)
                .map_err(Denied::Bus)?;
        }
        Ok(())
    }
}
