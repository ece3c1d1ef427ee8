//! Interrupts that are posted to a vCPU: whoever has one for it notes the vector in memory, and a notification says that
//! there is something (Intel SDM, volume 3, "Posted-Interrupt Processing"; VT-d, 5.2.3 and 9.11). A CPU that is in its
//! guest takes what is noted by itself; any other time the hypervisor does.

use core::sync::atomic::{AtomicU64, Ordering};

/// Outstanding notification.
const ON: u64 = 1 << 0;

/// The descriptor of one vCPU. Units of VT-d and CPUs write it as well, each word in one step.
///
/// It has a page for itself, where 64 bytes would do: Bochs 3.0 refuses other addresses.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Posted {
    /// Posted-interrupt requests: a bit for each vector.
    requests: [AtomicU64; 4],
    control: AtomicU64,
    reserved: [u64; 3],
}

impl Posted {
    /// One with nothing in it. `control` says where a unit sends notifications (VT-d, 9.11), with none outstanding.
    pub const fn new(control: u64) -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            control: AtomicU64::new(control & !ON),
            reserved: [0; 3],
        }
    }

    /// Its physical address.
    pub fn address(&self) -> u64 {
        (&raw const *self).expose_provenance() as u64
    }

    /// Posts these vectors, 64 a word. Whether the CPU is to be notified: none is outstanding.
    pub fn post(&self, vectors: [u64; 4]) -> bool {
        for (request, vectors) in self.requests.iter().zip(vectors) {
            request.fetch_or(vectors, Ordering::Relaxed);
        }
        self.control.fetch_or(ON, Ordering::AcqRel) & ON == 0
    }

    /// Takes what was posted, 64 vectors a word; `None` where nothing was since the last time. What comes later is notified
    /// again.
    pub fn take(&self) -> Option<[u64; 4]> {
        if self.control.load(Ordering::Relaxed) & ON == 0 {
            return None;
        }
        // First, so that what is posted behind a word that was taken is not missed.
        self.control.fetch_and(!ON, Ordering::AcqRel);
        let requests = self.requests.each_ref();
        Some(requests.map(|request| request.swap(0, Ordering::AcqRel)))
    }
}

#[cfg(test)]
mod tests {
    use super::Posted;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_descriptor_has_the_bits_of_the_document() {
        let posted = Posted::new(0x0000_00ab_00f2_0001);
        assert_eq!(posted.address() % 4096, 0);
        let words = || {
            // SAFETY: a descriptor is eight words, in a page.
            unsafe {
                core::ptr::from_ref(&posted)
                    .cast::<[u64; 8]>()
                    .read_volatile()
            }
        };
        assert_eq!(words(), [0, 0, 0, 0, 0x0000_00ab_00f2_0000, 0, 0, 0]);
        assert_eq!(posted.take(), None);
        assert!(posted.post([1 << 0x31, 0, 0, 1 << 63]));
        assert!(!posted.post([0, 1, 0, 0]), "it knows");
        assert_eq!(words()[4], 0x0000_00ab_00f2_0001);
        assert_eq!(posted.take(), Some([1 << 0x31, 1, 0, 1 << 63]));
        assert_eq!(words(), [0, 0, 0, 0, 0x0000_00ab_00f2_0000, 0, 0, 0]);
        assert_eq!(posted.take(), None);
        assert!(posted.post([0, 1, 0, 0]));
    }

    /// Two that post, one that takes when it is told, or looks: each vector arrives, once for each time that it was free.
    #[test]
    fn nothing_is_lost() {
        const ROUNDS: usize = 20_000;
        let posted = Posted::new(0);
        let told = AtomicBool::new(false);
        let arrived = [const { AtomicBool::new(false) }; 2];
        std::thread::scope(|scope| {
            for (vector, arrived) in arrived.iter().enumerate() {
                let (posted, told) = (&posted, &told);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let mut vectors = [0; 4];
                        vectors[3 * vector] = 1 << (60 + vector);
                        if posted.post(vectors) {
                            told.store(true, Ordering::Release);
                        }
                        while !arrived.swap(false, Ordering::AcqRel) {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut left = 2 * ROUNDS;
            while left > 0 {
                if !told.swap(false, Ordering::AcqRel) {
                    std::thread::yield_now();
                    continue;
                }
                let [first, .., last] = posted.take().expect("it was told");
                for (word, bit, arrived) in [(first, 60, &arrived[0]), (last, 61, &arrived[1])] {
                    assert_eq!(word & !(1 << bit), 0);
                    if word != 0 {
                        left -= 1;
                        arrived.store(true, Ordering::Release);
                    }
                }
            }
        });
        assert_eq!(posted.take(), None);
    }
}
