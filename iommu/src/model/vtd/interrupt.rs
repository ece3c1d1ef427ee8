//! Interrupt remapping (chapter 5).

use super::State;
use super::registers::{CFIS, IRES};

/// An interrupt that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Local APIC; of one that was not remapped, the address bits that say so.
    pub destination: u32,
    /// Vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
    /// By an entry of the table.
    pub remapped: bool,
    /// It was posted, and no CPU was told: one knows already, or is not to know.
    pub silent: bool,
}

/// Reason of an interrupt that was refused (5.1.4.1, 7.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused(
    /// The number.
    pub u8,
);

impl State {
    /// A message of a device.
    pub(super) fn interrupt(
        &mut self,
        source: u16,
        address: u32,
        data: u32,
    ) -> Result<Delivered, Refused> {
        let compatible = Delivered {
            destination: address >> 12 & 0xff,
            vector: data as u8,
            level: data >> 15 & 1 != 0,
            remapped: false,
            silent: false,
        };
        if !self.registers.is_on(IRES) {
            self.counters.unremapped += 1;
            self.delivered.push(compatible);
            return Ok(compatible);
        }
        let wide = self.registers.interrupts_in_force >> 11 & 1 != 0;
        if address >> 4 & 1 == 0 {
            if self.registers.is_on(CFIS) && !wide {
                self.counters.unremapped += 1;
                self.delivered.push(compatible);
                return Ok(compatible);
            }
            self.record(source, 0x25, 0, true);
            return Err(Refused(0x25));
        }
        let handle = address >> 5 & 0x7fff | (address >> 2 & 1) << 15;
        let added = if address >> 3 & 1 != 0 {
            data & 0xffff
        } else {
            0
        };
        let index = handle + added;
        let found = self.entry(source, index, address, data, wide);
        match found {
            Ok(delivered) => {
                if !delivered.silent {
                    self.delivered.push(delivered);
                }
                Ok(delivered)
            }
            Err((reason, silent)) => {
                if !silent {
                    let information = u64::from(index & 0xffff) << 48;
                    self.record(source, reason, information, true);
                }
                Err(Refused(reason))
            }
        }
    }

    fn entry(
        &mut self,
        source: u16,
        index: u32,
        address: u32,
        data: u32,
        wide: bool,
    ) -> Result<Delivered, (u8, bool)> {
        let shv = address >> 3 & 1 != 0;
        if address & 3 != 0 || shv && data >> 16 != 0 {
            return Err((0x20, false));
        }
        let table = self.registers.interrupts_in_force;
        if index >= 2 << (table & 0xf) {
            return Err((0x21, false));
        }
        let index = index as u16;
        let held = self.cache.interrupts.get(&index).copied();
        let words = match held {
            Some(words) => words,
            None => {
                let at = (table & !0xfff) + u64::from(index) * 16;
                let read = self.read(at).zip(self.read(at + 8));
                let (first, second) = read.ok_or((0x23, false))?;
                [first, second]
            }
        };
        let [first, second] = words;
        let silent = first >> 1 & 1 != 0;
        if first & 1 == 0 {
            return Err((0x22, silent));
        }
        // Reserved: [14:12], [31:24], with narrow destinations all but [47:40] of theirs, IM without posted interrupts,
        // and [127:84]; SVT 3 is no type.
        let destination = if wide { 0 } else { 0xffff_00ff_0000_0000 };
        let kind = second >> 18 & 3;
        let posted = self.config.posted_interrupts && first >> 15 & 1 != 0;
        // Posted: [13:12], [7:2], [37:24] and [95:84], and what is past the host's addresses.
        let beyond = second >> 32 >> (self.config.output_bits - 32) != 0;
        let reserved = match posted {
            true => first & 0x3f_ff00_30fc != 0 || second >> 20 & 0xfff != 0 || beyond,
            false => first & (0xff00_f000 | destination) != 0 || second >> 20 != 0,
        };
        if reserved || kind == 3 {
            return Err((0x24, silent));
        }
        let wanted = second as u16;
        let valid = match kind {
            0 => true,
            1 => {
                let mask = [0, 0b100, 0b110, 0b111][(second >> 16 & 3) as usize];
                (source ^ wanted) & !mask == 0
            }
            _ => (wanted >> 8..=wanted & 0xff).contains(&(source >> 8)),
        };
        if !valid {
            return Err((0x26, silent));
        }
        self.cache.interrupts.insert(index, words);
        if posted {
            return self.post(words, wide).map_err(|reason| (reason, silent));
        }
        let destination = (first >> 32) as u32;
        Ok(Delivered {
            destination: if wide {
                destination
            } else {
                destination >> 8 & 0xff
            },
            vector: (first >> 16) as u8,
            level: first >> 4 & 1 != 0,
            remapped: true,
            silent: false,
        })
    }

    /// Notes an interrupt in its descriptor (5.2.3, 9.11), which is always snooped. What goes out is the notification.
    fn post(&self, [first, second]: [u64; 2], wide: bool) -> Result<Delivered, u8> {
        let at = second & !0xffff_ffff | first >> 32 & 0xffff_ffc0;
        let read = |word: u64| self.memory.device_read(at + word * 8, true);
        let write = |word: u64, value| self.memory.device_write(at + word * 8, value, true);
        let mut words = [0; 8];
        for (index, word) in (0..).zip(&mut words) {
            *word = read(index).map_err(|_| 0x27)?;
        }
        let control = words[4];
        let destination = if wide { 0 } else { 0xffff_00ff_0000_0000 };
        if control & (0xff00_fffc | destination) != 0 || words[5..] != [0; 3] {
            return Err(0x28);
        }
        let vector = first >> 16 & 0xff;
        let (word, bit) = (vector / 64, vector % 64);
        write(word, words[word as usize] | 1 << bit).map_err(|_| 0x27)?;
        let (outstanding, suppressed) = (control & 1 != 0, control >> 1 & 1 != 0);
        let urgent = first >> 14 & 1 != 0;
        let told = !outstanding && (urgent || !suppressed);
        if told {
            write(4, control | 1).map_err(|_| 0x27)?;
        }
        let destination = (control >> 32) as u32;
        Ok(Delivered {
            destination: if wide { destination } else { destination >> 8 },
            vector: (control >> 16) as u8,
            level: false,
            remapped: true,
            silent: !told,
        })
    }
}
