//! A guest's access to where it has no memory, brought to the virtual device that is there. What nobody can carry out ends in
//! an exception, as on a PC: a guest may touch whatever it likes, with any instruction.

use super::partition::Partition;
use super::system::System;
use crate::instruction::walk::{self, Access, Fault, Paging};
use crate::instruction::{self, LONGEST, Mode, Segment};
use arch::x86_64::vcpu::{Exception, NestedFault, Vcpu};
use iommu::addr::Gpa;
use iommu::hal::GuestMemory;

/// RFLAGS.AC.
const RFLAGS_AC: u64 = 1 << 18;
const PAGE: u64 = 4096;
/// Aligned words that the longest instruction is in.
const WORDS: usize = (LONGEST + 7).div_ceil(8);

/// What becomes of an access that is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The guest takes this.
    Exception(Exception),
    /// The guest takes #PF for this linear address, with this error code.
    PageFault(u64, u32),
    /// The fault is the hypervisor's own: reserved bits in its nested tables.
    Nobody,
}

impl Refusal {
    const GENERAL_PROTECTION: Self = Self::Exception(Exception::GENERAL_PROTECTION);
}

/// Carries out the instruction of vCPU `index` that touched what `fault` says.
///
/// # Errors
/// [`Refusal`]; its registers are as they were.
pub fn access(
    system: &'static System,
    partition: &'static Partition,
    index: usize,
    vcpu: &mut Vcpu,
    fault: &NestedFault,
) -> Result<(), Refusal> {
    if fault.reserved {
        return Err(Refusal::Nobody);
    }
    if fault.walk || vcpu.is_delivering() {
        // Its tables are nowhere; for #PF, SVM does not say at which linear address. All ones are no gate.
        return Err(Refusal::GENERAL_PROTECTION);
    }
    if fault.fetch {
        // All ones are no instruction.
        return Err(Refusal::Exception(Exception::UNDEFINED));
    }
    let (context, rip) = (vcpu.context(), vcpu.registers().rip);
    let (mode, linear) = match context.code_bits() {
        64 => (Mode::Long, rip),
        32 => (Mode::Protected, (context.cs.base + rip) & 0xffff_ffff),
        _ => return Err(Refusal::GENERAL_PROTECTION),
    };
    let memory = Memory {
        partition,
        paging: Paging {
            cr0: context.cr0,
            cr3: context.cr3,
            cr4: context.cr4,
            efer: context.efer,
            alignment_check: vcpu.registers().rflags & RFLAGS_AC != 0,
            user: context.cpl == 3,
        },
    };
    let mut words = [0; WORDS];
    let fetched = memory.fetch(linear, &mut words);
    let bytes = words.map(u64::to_le_bytes);
    let code = bytes[..fetched].as_flattened();
    let code = code.get((linear % 8) as usize..).unwrap_or_default();
    // Vector registers, say, or an instruction that ends where there is no memory.
    let instruction = instruction::decode(code, mode);
    let instruction = instruction.map_err(|_| Refusal::GENERAL_PROTECTION)?;
    let (at, size) = (Gpa(fault.gpa), instruction.size);
    let other = match instruction.other_side(&vcpu.registers().general, fault.write) {
        None => None,
        // Bases are zero there, but for FS and GS.
        Some((Segment::Flat(_), linear)) if mode == Mode::Long => {
            let access = match fault.write {
                true => Access::Read,
                false => Access::Write,
            };
            Some(memory.places(linear, size, access)?)
        }
        Some(_) => return Err(Refusal::GENERAL_PROTECTION),
    };
    let loaded = match (instruction.loads(), other) {
        (true, Some(other)) if fault.write => memory.load(&other)?,
        (true, _) => partition
            .read_function(system, at, size)
            .or_else(|| partition.access_vtd(system, at, size, None))
            .unwrap_or_else(|| partition.devices.lock().read(index, at, size)),
        (false, _) => 0,
    };
    // The last that can fail, before any register changes: MOVS stores what it has loaded.
    let stored = match other {
        Some(other) if !fault.write => memory.store(&other, loaded).map(|()| true)?,
        _ => false,
    };
    let registers = vcpu.registers_mut();
    let completion = instruction.complete(&mut registers.general, &mut registers.rflags, loaded);
    if let Some(value) = completion.store
        && !stored
        && !partition.write_function(system, at, size, value)
        && partition
            .access_vtd(system, at, size, Some(value))
            .is_none()
    {
        partition.with_devices(system, |devices| devices.write(index, at, size, value));
    }
    if completion.done {
        vcpu.skip_bytes(instruction.len);
    }
    Ok(())
}

/// Where one operand is: in one page, or in two. In one, the second place is of no length.
type Places = [(Gpa, usize); 2];

/// A guest's memory as its vCPU sees it.
struct Memory {
    partition: &'static Partition,
    paging: Paging,
}

impl Memory {
    /// The entry at `at` of a table of the guest's, of 4 or 8 bytes, to which it is aligned.
    fn entry(&self, at: Gpa, size: u8) -> Option<u64> {
        let mut word = [0];
        let aligned = Gpa(at.0 & !7);
        self.partition.ram.read_words(aligned, &mut word).ok()?;
        let [word] = word;
        Some(match size {
            4 => word >> (8 * (at.0 & 4)) & 0xffff_ffff,
            _ => word,
        })
    }

    fn translate(&self, linear: u64, access: Access) -> Result<Gpa, walk::Fault> {
        let mut entry = |at, size| self.entry(at, size);
        self.paging.translate(linear, access, &mut entry)
    }

    /// Copies the words that the instruction at `linear` is in out of the guest, once; how many there are.
    fn fetch(&self, linear: u64, words: &mut [u64; WORDS]) -> usize {
        let start = linear & !7;
        let mut done = 0;
        while done < words.len() {
            let at = start.wrapping_add(8 * done as u64);
            let Ok(gpa) = self.translate(at, Access::Fetch) else {
                break;
            };
            let in_page = (PAGE - at % PAGE) as usize / 8;
            let end = words.len().min(done + in_page);
            let read = self.partition.ram.read_words(gpa, &mut words[done..end]);
            if read.is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// Where `size` bytes at `linear` are.
    fn places(&self, linear: u64, size: u8, access: Access) -> Result<Places, Refusal> {
        let size = usize::from(size);
        let first = size.min((PAGE - linear % PAGE) as usize);
        let mut places = [(Gpa(0), 0); 2];
        let next = linear.wrapping_add(first as u64);
        for (place, (at, len)) in places
            .iter_mut()
            .zip([(linear, first), (next, size - first)])
        {
            if len == 0 {
                continue;
            }
            let gpa = self.translate(at, access).map_err(|fault| match fault {
                Fault::Page(error) => Refusal::PageFault(at, error),
                Fault::NotCanonical | Fault::Table(_) => Refusal::GENERAL_PROTECTION,
            })?;
            *place = (gpa, len);
        }
        Ok(places)
    }

    /// What is in `places`.
    ///
    /// # Errors
    /// #GP(0): not all of it is memory.
    fn load(&self, places: &Places) -> Result<u64, Refusal> {
        let mut bytes = [0; 8];
        let (first, second) = bytes.split_at_mut(places[0].1);
        for (part, &(at, len)) in [first, second].into_iter().zip(places) {
            if len == 0 {
                break;
            }
            let read = self.partition.ram.read(at, &mut part[..len]);
            read.map_err(|_| Refusal::GENERAL_PROTECTION)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Puts the lowest bytes of `value` there.
    ///
    /// # Errors
    /// As for [`Self::load`].
    fn store(&self, places: &Places, value: u64) -> Result<(), Refusal> {
        let bytes = value.to_le_bytes();
        let (first, second) = bytes.split_at(places[0].1);
        for (part, &(at, len)) in [first, second].into_iter().zip(places) {
            if len == 0 {
                break;
            }
            let written = self.partition.ram.write(at, &part[..len]);
            written.map_err(|_| Refusal::GENERAL_PROTECTION)?;
        }
        Ok(())
    }
}
