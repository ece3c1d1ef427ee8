//! Drives QEMU's `edu` (its docs/specs/edu.rst) through vfio-pci: what is mapped for it is reached, what is not mapped, not
//! mapped any more or not for writing is not, and what replaces it is.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use linux_payloads::entry;
    use linux_payloads::system::{self, Arguments, Checks, say};
    use linux_payloads::vfio::{Device, Failed, READ, WRITE};

    entry!(main);

    const IDENTIFICATION: usize = 0x00;
    const SOURCE: usize = 0x80;
    const DESTINATION: usize = 0x88;
    const COUNT: usize = 0x90;
    const COMMAND: usize = 0x98;
    /// The device's own 4 KiB, in its address space.
    const BUFFER: u32 = 0x4_0000;
    const START: u32 = 1;
    const TO_MEMORY: u32 = 2;

    /// Where memory is mapped for the device: nothing else of the guest has such a number.
    const IOVA: u32 = 0x1234_0000;
    /// 64 KiB: whole pages, whatever their size.
    const WORDS: usize = 0x2000;
    const BYTES: u32 = 8 * WORDS as u32;
    /// Bytes of a transfer that arrives.
    const LEN: u32 = 256;
    /// What is read is at the start, what is written from here on.
    const TARGET: u32 = 0x1000;
    /// A transfer that does not arrive: QEMU refuses four bytes at a time, with an event each.
    const REFUSED: u32 = 4;

    fn main(arguments: Arguments) -> bool {
        let mut checks = Checks::default();
        let ran = run(arguments, &mut checks);
        if let Err(Failed(step, error)) = ran {
            checks.check(false, format_args!("{step}: error {}", error.0));
        }
        checks.finish()
    }

    fn run(arguments: Arguments, checks: &mut Checks) -> Result<(), Failed> {
        let Some(address) = arguments.get(1) else {
            checks.check(false, format_args!("called with the address of a function"));
            return Ok(());
        };
        let device = Device::take(address)?;
        let is_edu = device.read32(IDENTIFICATION) & 0xff == 0xed;
        checks.check(
            is_edu,
            format_args!("vfio-pci gives the device to a program"),
        );
        let memory = |value| {
            let memory = system::memory(WORDS).map_err(|error| Failed("memory", error))?;
            fill(memory, value);
            Ok(memory)
        };
        let (first, second) = (
            memory(0x1111_1111_1111_1111)?,
            memory(0x2222_2222_2222_2222)?,
        );

        device.map_dma(IOVA.into(), first, READ | WRITE)?;
        for (index, word) in first[..LEN as usize / 8].iter().enumerate() {
            word.store(pattern(index), Ordering::Relaxed);
        }
        let done = read(&device, IOVA, LEN) && write(&device, IOVA + TARGET, LEN);
        checks.check(
            done && arrived(first),
            format_args!("dma goes where it is mapped"),
        );

        fill(first, 0x3333_3333_3333_3333);
        let beyond = IOVA + BYTES;
        let done = write(&device, beyond, REFUSED);
        checks.check(
            done && first
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0x3333_3333_3333_3333),
            format_args!("dma behind it changes nothing"),
        );

        device.unmap_dma(IOVA.into(), BYTES.into())?;
        let done = write(&device, IOVA + TARGET, REFUSED);
        checks.check(
            done && first
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0x3333_3333_3333_3333),
            format_args!("dma to what is unmapped changes nothing"),
        );

        device.map_dma(IOVA.into(), second, READ)?;
        let done = write(&device, IOVA + TARGET, REFUSED);
        checks.check(
            done && second
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0x2222_2222_2222_2222),
            format_args!("dma to what is for reading only changes nothing"),
        );
        device.unmap_dma(IOVA.into(), BYTES.into())?;

        device.map_dma(IOVA.into(), second, READ | WRITE)?;
        let done = write(&device, IOVA + TARGET, LEN);
        let old = first
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == 0x3333_3333_3333_3333);
        checks.check(
            done && arrived(second) && old,
            format_args!("dma goes to what replaced it"),
        );
        device.unmap_dma(IOVA.into(), BYTES.into())?;
        say(format_args!(
            "stray writes: {beyond:#x} {:#x} {:#x}",
            IOVA + TARGET,
            IOVA + TARGET
        ));
        Ok(())
    }

    fn pattern(index: usize) -> u64 {
        0x5a5a_0000_0000_0000 | index as u64
    }

    fn fill(memory: &[AtomicU64], value: u64) {
        memory
            .iter()
            .for_each(|word| word.store(value, Ordering::Relaxed));
    }

    /// The pattern is where it was to be written.
    fn arrived(memory: &[AtomicU64]) -> bool {
        let words = &memory[TARGET as usize / 8..][..LEN as usize / 8];
        let mut words = words.iter().enumerate();
        words.all(|(index, word)| word.load(Ordering::Relaxed) == pattern(index))
    }

    /// The device reads memory into its buffer; whether it is done.
    fn read(device: &Device, iova: u32, len: u32) -> bool {
        transfer(device, iova, BUFFER, len, START)
    }

    /// The device writes its buffer to memory; whether it is done. It cannot tell whether that arrived.
    fn write(device: &Device, iova: u32, len: u32) -> bool {
        transfer(device, BUFFER, iova, len, START | TO_MEMORY)
    }

    fn transfer(device: &Device, from: u32, to: u32, len: u32, command: u32) -> bool {
        core::sync::atomic::fence(Ordering::SeqCst);
        device.write32(SOURCE, from);
        device.write32(DESTINATION, to);
        device.write32(COUNT, len);
        device.write32(COMMAND, command);
        // A tenth of a second of the machine's time; far more where others want the host too.
        for _ in 0..6000 {
            if device.read32(COMMAND) & START == 0 {
                core::sync::atomic::fence(Ordering::SeqCst);
                return true;
            }
            system::sleep_ms(10);
        }
        false
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
