//! Descriptors against words transcribed from elsewhere: bits as Linux names them in `io-pgtable-arm.c`, in the VT-d
//! driver's headers, in `asm/pgtable_types.h` and in `asm/vmx.h`, put together by hand. Nothing here uses the crate's own layouts to say what is expected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use iommu::addr::{Hpa, Iova, Span};
use iommu::hal::{DmaBuffer, Platform};
use iommu::table::{
    Attributes, Ept, Format, Granule4K, Granule16K, Granule64K, Memory, Npt, PageTable,
    SecondStage, SecondStageAttributes, Shape, StageOne, StageOneAttributes, StageTwo,
};

type Words = Arc<[AtomicU64]>;

#[derive(Default)]
struct Ram(Mutex<BTreeMap<u64, Words>>);

struct Buffer(u64, Words);

impl Platform for Ram {
    type Buffer = Buffer;
    fn allocate(&self, len: usize) -> Option<Buffer> {
        let mut frames = self.0.lock().unwrap();
        let base = (1 << 30) + frames.len() as u64 * (1 << 20);
        let words: Words = (0..len / 8).map(|_| AtomicU64::new(0)).collect();
        frames.insert(base, Arc::clone(&words));
        Some(Buffer(base, words))
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.0)
    }
    fn len(&self) -> usize {
        self.1.len() * 8
    }
    fn read64(&self, offset: usize) -> u64 {
        self.1[offset / 8].load(Relaxed)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.1[offset / 8].store(value, Relaxed);
    }
    fn clean(&self, _offset: usize, _len: usize) {}
}

/// The words of a walk for `at` after mapping `len` bytes there: entries at `indices` of table after table, and the
/// bits of each link beside the address.
fn words<F: Format>(
    shape: Shape,
    at: u64,
    len: u64,
    output: u64,
    attributes: F::Attributes,
    indices: &[u64],
) -> (u64, Vec<u64>) {
    let ram = Arc::new(Ram::default());
    let mut table = PageTable::<Ram, F>::with_shape(Arc::clone(&ram), shape).unwrap();
    let range = Span::<Iova>::new(Iova(at), len).unwrap();
    table.map(range, Hpa(output), attributes).unwrap();
    let frames = ram.0.lock().unwrap();
    let mut next = table.root().0;
    let mut links = Vec::new();
    let (last, path) = indices.split_last().unwrap();
    for index in path {
        let link = frames[&next][*index as usize].load(Relaxed);
        next = link & 0x000f_ffff_ffff_f000;
        links.push(link ^ next);
    }
    (frames[&next][*last as usize].load(Relaxed), links)
}

const XN: u64 = 3 << 53;

#[test]
fn stage_two_words() {
    let two = |attributes| {
        let (leaf, links) = words::<StageTwo<Granule4K>>(
            Shape::new(39),
            0x40_8060_5000 & 0x7f_ffff_ffff,
            0x1000,
            0x8_1234_5000,
            attributes,
            // Bits 38:30, 29:21 and 20:12 of 0x40_8060_5000.
            &[0x102, 3, 5],
        );
        assert_eq!(links, [3, 3]);
        leaf
    };
    let read_only = Attributes {
        write: false,
        ..Attributes::DMA
    };
    let write_only = Attributes {
        read: false,
        ..Attributes::DMA
    };
    // AF 1<<10, SH_IS 3<<8, HAP_READ 1<<6, HAP_WRITE 2<<6, MEMATTR_OIWB 0xf<<2, MEMATTR_DEV 1<<2, page 3, XN 2<<53.
    let at = 0x8_1234_5000;
    assert_eq!(two(Attributes::RAM), at | 0x7ff);
    assert_eq!(two(Attributes::DMA), at | 0x7ff | 1 << 54);
    assert_eq!(two(read_only), at | 0x77f | 1 << 54);
    assert_eq!(two(write_only), at | 0x7bf | 1 << 54);
    assert_eq!(two(Attributes::DEVICE), at | 0x7c7 | 1 << 54);
    let nowhere = Attributes {
        memory: Memory::Device,
        execute: true,
        ..Attributes::DMA
    };
    assert_eq!(two(nowhere), at | 0x7c7);
}

#[test]
fn stage_one_words() {
    let one = |shape, attributes| {
        let (leaf, links) = words::<StageOne<Granule4K>>(
            shape,
            0x0080_c060_5000,
            0x1000,
            0x8_1234_5000,
            attributes,
            // Bits 47:39, 38:30, 29:21 and 20:12.
            &[1, 3, 3, 5],
        );
        assert_eq!(links, [3, 3, 3]);
        leaf
    };
    let plain = Shape::new(48);
    let tracked = Shape {
        dirty: true,
        ..plain
    };
    // nG 1<<11, AF 1<<10, SH_IS 3<<8, AP_UNPRIV 1<<6, AP_RDONLY 2<<6, ATTRINDX 7<<2, page 3, XN 3<<53, DBM 1<<51.
    let at = 0x8_1234_5000;
    let dma = StageOneAttributes::DMA;
    let read_only = StageOneAttributes {
        write: false,
        ..dma
    };
    let code = StageOneAttributes {
        privileged_execute: true,
        global: true,
        attr_index: 7,
        unprivileged: false,
        ..read_only
    };
    let user_code = StageOneAttributes {
        execute: true,
        ..read_only
    };
    assert_eq!(one(plain, dma), at | 0xf43 | XN);
    assert_eq!(one(plain, read_only), at | 0xfc3 | XN);
    assert_eq!(one(plain, StageOneAttributes::DEVICE), at | 0xf47 | XN);
    assert_eq!(one(plain, code), at | 0x79f | 1 << 54);
    assert_eq!(one(plain, user_code), at | 0xfc3 | 1 << 53);
    assert_eq!(one(tracked, dma), at | 0xfc3 | XN | 1 << 51);
    assert_eq!(one(tracked, read_only), at | 0xfc3 | XN);
}

#[test]
fn larger_granules() {
    // 16 KiB: bits 46:36, 35:25 and 24:14; a block is 32 MiB, type 1.
    let (leaf, links) = words::<StageOne<Granule16K>>(
        Shape::new(47),
        0x2030_0800_c000,
        0x4000,
        0x1_0000_4000,
        StageOneAttributes::DMA,
        &[0x203, 4, 3],
    );
    assert_eq!((leaf, links), (0x1_0000_4000 | 0xf43 | XN, vec![3, 3]));
    let (leaf, _) = words::<StageTwo<Granule16K>>(
        Shape::new(40),
        0xf0_0600_0000,
        0x200_0000,
        0x1_0200_0000,
        Attributes::RAM,
        &[0xf, 3],
    );
    assert_eq!(leaf, 0x1_0200_0000 | 0x7fd);
    // 64 KiB: bits 47:42, 41:29 and 28:16; a block is 512 MiB.
    let (leaf, links) = words::<StageTwo<Granule64K>>(
        Shape::new(48),
        0x0c00_6007_0000,
        0x1_0000,
        0x5_4321_0000,
        Attributes::RAM,
        &[3, 3, 7],
    );
    assert_eq!((leaf, links), (0x5_4321_0000 | 0x7ff, vec![3, 3]));
    let (leaf, _) = words::<StageTwo<Granule64K>>(
        Shape::new(48),
        0x0c00_6000_0000,
        0x2000_0000,
        0x5_4000_0000,
        Attributes::RAM,
        &[3, 3],
    );
    assert_eq!(leaf, 0x5_4000_0000 | 0x7fd);
}

#[test]
fn second_stage_words() {
    // DMA_PTE_READ 1, DMA_PTE_WRITE 2, X 4 (VT-d 9.8), DMA_PTE_LARGE_PAGE 1<<7, DMA_PTE_SNP 1<<11; links allow all.
    let shape = |bits| Shape {
        output_bits: 52,
        ..Shape::new(bits)
    };
    let dma = SecondStageAttributes::DMA;
    let all = SecondStageAttributes {
        execute: true,
        snoop: true,
        ..dma
    };
    let write_only = SecondStageAttributes { read: false, ..dma };
    let page = |attributes| {
        let path = [1, 3, 3, 5];
        let at = 0x0080_c060_5000;
        words::<SecondStage>(shape(48), at, 0x1000, 0xf_0000_1234_5000, attributes, &path)
    };
    assert_eq!(page(dma), (0xf_0000_1234_5003, vec![7, 7, 7]));
    assert_eq!(page(all).0, 0xf_0000_1234_5807);
    assert_eq!(page(write_only).0, 0xf_0000_1234_5002);
    let (two_mib, _) =
        words::<SecondStage>(shape(39), 0x60_0000, 2 << 20, 0x120_0000, dma, &[0, 3]);
    assert_eq!(two_mib, 0x120_0083);
    let (one_gib, links) =
        words::<SecondStage>(shape(57), 1 << 30, 1 << 30, 3 << 30, all, &[0, 0, 1]);
    assert_eq!((one_gib, links), (0xc000_0887, vec![7, 7]));
    let (top, links) =
        words::<SecondStage>(shape(57), 0x01ff_ffff_ffff_f000, 0x1000, 0, dma, &[511; 5]);
    assert_eq!((top, links), (3, vec![7; 4]));
}

const READ_ONLY: Attributes = Attributes {
    write: false,
    ..Attributes::DMA
};

/// The same in both formats: a page (two permissions of it), a block of each size, the last page of five levels.
fn for_cpus<F: Format<Attributes = Attributes>>() -> (Vec<u64>, Vec<u64>) {
    let shape = |bits| Shape {
        output_bits: 52,
        ..Shape::new(bits)
    };
    let at = 0x0080_c060_5000;
    let page = |attributes| {
        words::<F>(
            shape(48),
            at,
            0x1000,
            0xf_0000_1234_5000,
            attributes,
            &[1, 3, 3, 5],
        )
    };
    let (ram, links) = page(Attributes::RAM);
    let (read_only, _) = page(READ_ONLY);
    let (device, _) = page(Attributes::DEVICE);
    let ram_at = |bits, at, len, output, path: &[u64]| {
        words::<F>(shape(bits), at, len, output, Attributes::RAM, path)
    };
    let (two_mib, _) = ram_at(39, 0x60_0000, 2 << 20, 0x120_0000, &[0, 0, 3]);
    let (one_gib, _) = ram_at(48, 1 << 30, 1 << 30, 3 << 30, &[0, 1]);
    let (last, long) = ram_at(57, 0x01ff_ffff_ffff_f000, 0x1000, 0, &[511; 5]);
    assert_eq!(links[..], long[1..]);
    (vec![ram, read_only, device, two_mib, one_gib, last], long)
}

#[test]
fn npt_words() {
    // _PAGE_PRESENT 1, _PAGE_RW 2, _PAGE_USER 4, _PAGE_PWT 8, _PAGE_PCD 0x10, _PAGE_ACCESSED 0x20, _PAGE_DIRTY 0x40,
    // _PAGE_PSE 0x80, _PAGE_NX 1<<63.
    let (leaves, links) = for_cpus::<Npt>();
    let at = 0xf_0000_1234_5000;
    let nx = 1 << 63;
    let expected = [
        at | 0x67,
        at | 0x25 | nx,
        at | 0x7f | nx,
        0x120_00e7,
        0xc000_00e7,
        0x67,
    ];
    assert_eq!((leaves, links), (expected.to_vec(), vec![0x27; 4]));
}

#[test]
fn ept_words() {
    // VMX_EPT_READABLE_MASK 1, VMX_EPT_WRITABLE_MASK 2, VMX_EPT_EXECUTABLE_MASK 4, VMX_EPT_MT_EPTE_SHIFT 3 with
    // X86_MEMTYPE_WB 6 and X86_MEMTYPE_UC 0, VMX_EPT_ACCESS_BIT 1<<8, VMX_EPT_DIRTY_BIT 1<<9, PT_PAGE_SIZE_MASK 1<<7.
    let (leaves, links) = for_cpus::<Ept>();
    let at = 0xf_0000_1234_5000;
    let expected = [
        at | 0x337,
        at | 0x131,
        at | 0x303,
        0x120_03b7,
        0xc000_03b7,
        0x337,
    ];
    assert_eq!((leaves, links), (expected.to_vec(), vec![0x107; 4]));
}
