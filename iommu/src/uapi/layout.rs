//! The structures of IOMMUFD's requests (Linux, `include/uapi/linux/iommufd.h`): layouts only. All fields are little-endian.

#![expect(
    missing_docs,
    reason = "the names are Linux's, and so is what they mean"
)]

use zerocopy::byteorder::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
            #[repr(C)]
            pub struct $name {
                $(pub $field: $kind,)*
            }
        )*
    };
}

layouts! {
    /// IOMMU_DESTROY.
    Destroy { size: U32, id: U32 }
    /// IOMMU_IOAS_ALLOC.
    IoasAlloc { size: U32, flags: U32, out_ioas_id: U32 }
    /// IOMMU_IOAS_ALLOW_IOVAS.
    IoasAllowIovas {
        size: U32,
        ioas_id: U32,
        num_iovas: U32,
        reserved: U32,
        allowed_iovas: U64,
    }
    /// An entry of the arrays of IOMMU_IOAS_ALLOW_IOVAS and IOMMU_IOAS_IOVA_RANGES.
    IovaRange { start: U64, last: U64 }
    /// IOMMU_IOAS_COPY.
    IoasCopy {
        size: U32,
        flags: U32,
        dst_ioas_id: U32,
        src_ioas_id: U32,
        length: U64,
        dst_iova: U64,
        src_iova: U64,
    }
    /// IOMMU_IOAS_IOVA_RANGES.
    IoasIovaRanges {
        size: U32,
        ioas_id: U32,
        num_iovas: U32,
        reserved: U32,
        allowed_iovas: U64,
        out_iova_alignment: U64,
    }
    /// IOMMU_IOAS_MAP.
    IoasMap {
        size: U32,
        flags: U32,
        ioas_id: U32,
        reserved: U32,
        user_va: U64,
        length: U64,
        iova: U64,
    }
    /// IOMMU_IOAS_UNMAP.
    IoasUnmap { size: U32, ioas_id: U32, iova: U64, length: U64 }
    /// IOMMU_OPTION.
    IommuOption {
        size: U32,
        option_id: U32,
        op: U16,
        reserved: U16,
        object_id: U32,
        val64: U64,
    }
    /// IOMMU_VFIO_IOAS.
    VfioIoas { size: U32, ioas_id: U32, op: U16, reserved: U16 }
    /// IOMMU_HWPT_ALLOC.
    HwptAlloc {
        size: U32,
        flags: U32,
        dev_id: U32,
        pt_id: U32,
        out_hwpt_id: U32,
        reserved: U32,
        data_type: U32,
        data_len: U32,
        data_uptr: U64,
        fault_id: U32,
        reserved2: U32,
    }
    /// IOMMU_GET_HW_INFO.
    GetHwInfo {
        size: U32,
        flags: U32,
        dev_id: U32,
        data_len: U32,
        data_uptr: U64,
        data_type: U32,
        out_max_pasid_log2: u8,
        reserved: [u8; 3],
        out_capabilities: U64,
    }
    /// IOMMU_HWPT_SET_DIRTY_TRACKING.
    HwptSetDirtyTracking { size: U32, flags: U32, hwpt_id: U32, reserved: U32 }
    /// IOMMU_HWPT_GET_DIRTY_BITMAP.
    HwptGetDirtyBitmap {
        size: U32,
        hwpt_id: U32,
        flags: U32,
        reserved: U32,
        iova: U64,
        length: U64,
        page_size: U64,
        data: U64,
    }
    /// IOMMU_HWPT_INVALIDATE.
    HwptInvalidate {
        size: U32,
        hwpt_id: U32,
        data_uptr: U64,
        data_type: U32,
        entry_len: U32,
        entry_num: U32,
        reserved: U32,
    }
    /// IOMMU_FAULT_QUEUE_ALLOC.
    FaultQueueAlloc { size: U32, flags: U32, out_fault_id: U32, out_fault_fd: I32 }
    /// IOMMU_IOAS_MAP_FILE.
    IoasMapFile {
        size: U32,
        flags: U32,
        ioas_id: U32,
        fd: I32,
        start: U64,
        length: U64,
        iova: U64,
    }
    /// IOMMU_VIOMMU_ALLOC.
    ViommuAlloc {
        size: U32,
        flags: U32,
        kind: U32,
        dev_id: U32,
        hwpt_id: U32,
        out_viommu_id: U32,
        data_len: U32,
        reserved: U32,
        data_uptr: U64,
    }
    /// IOMMU_VDEVICE_ALLOC.
    VdeviceAlloc {
        size: U32,
        viommu_id: U32,
        dev_id: U32,
        out_vdevice_id: U32,
        virt_id: U64,
    }
    /// IOMMU_IOAS_CHANGE_PROCESS.
    IoasChangeProcess { size: U32, reserved: U32 }
    /// IOMMU_VEVENTQ_ALLOC.
    VeventqAlloc {
        size: U32,
        flags: U32,
        viommu_id: U32,
        kind: U32,
        veventq_depth: U32,
        out_veventq_id: U32,
        out_veventq_fd: I32,
        reserved: U32,
    }
    /// IOMMU_HW_QUEUE_ALLOC.
    HwQueueAlloc {
        size: U32,
        flags: U32,
        viommu_id: U32,
        kind: U32,
        index: U32,
        out_hw_queue_id: U32,
        nesting_parent_iova: U64,
        length: U64,
    }
    /// IOMMU_IOAS_NOIOMMU_GET_PA.
    IoasNoiommuGetPa {
        size: U32,
        flags: U32,
        ioas_id: U32,
        reserved: U32,
        iova: U64,
        length: U64,
        out_phys: U64,
    }
    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT.
    AttachPt { argsz: U32, flags: U32, pt_id: U32, pasid: U32 }
    /// VFIO_DEVICE_DETACH_IOMMUFD_PT.
    DetachPt { argsz: U32, flags: U32, pasid: U32 }
    /// struct iommu_hwpt_pgfault: what is read from a fault queue.
    PageFault {
        flags: U32,
        dev_id: U32,
        pasid: U32,
        grpid: U32,
        perm: U32,
        reserved: U32,
        addr: U64,
        length: U32,
        cookie: U32,
    }
    /// struct iommu_hwpt_page_response: what is written to one.
    PageResponse { cookie: U32, code: U32 }
}
