//! Size, and offset and width of each field, against a list that was printed by a C compiler from Linux's header.

use core::mem::{offset_of, size_of};

use super::super::layout::{
    AttachPt, Destroy, DetachPt, FaultQueueAlloc, GetHwInfo, HwQueueAlloc, HwptAlloc,
    HwptGetDirtyBitmap, HwptInvalidate, HwptSetDirtyTracking, IoasAlloc, IoasAllowIovas,
    IoasChangeProcess, IoasCopy, IoasIovaRanges, IoasMap, IoasMapFile, IoasNoiommuGetPa, IoasUnmap,
    IommuOption, IovaRange, PageFault, PageResponse, VdeviceAlloc, VeventqAlloc, VfioIoas,
    ViommuAlloc,
};

macro_rules! golden {
    ($($name:ident $size:literal: $($field:ident $at:literal $width:literal),*;)*) => {
        $(
            assert_eq!(size_of::<$name>(), $size, stringify!($name));
            let mut end = 0;
            $(
                assert_eq!(offset_of!($name, $field), $at, stringify!($name.$field));
                // No gap and no overlap: the next field is where this one ends.
                assert_eq!(end, $at, stringify!($name.$field));
                end = $at + $width;
            )*
            assert_eq!(end, $size, stringify!($name));
        )*
    };
}

#[test]
fn every_structure_is_linuxs_byte_by_byte() {
    golden! {
        Destroy 8: size 0 4, id 4 4;
        IoasAlloc 12: size 0 4, flags 4 4, out_ioas_id 8 4;
        IoasAllowIovas 24: size 0 4, ioas_id 4 4, num_iovas 8 4, reserved 12 4, allowed_iovas 16 8;
        IovaRange 16: start 0 8, last 8 8;
        IoasCopy 40: size 0 4, flags 4 4, dst_ioas_id 8 4, src_ioas_id 12 4, length 16 8, dst_iova 24 8, src_iova 32 8;
        IoasIovaRanges 32: size 0 4, ioas_id 4 4, num_iovas 8 4, reserved 12 4, allowed_iovas 16 8,
            out_iova_alignment 24 8;
        IoasMap 40: size 0 4, flags 4 4, ioas_id 8 4, reserved 12 4, user_va 16 8, length 24 8, iova 32 8;
        IoasUnmap 24: size 0 4, ioas_id 4 4, iova 8 8, length 16 8;
        IommuOption 24: size 0 4, option_id 4 4, op 8 2, reserved 10 2, object_id 12 4, val64 16 8;
        VfioIoas 12: size 0 4, ioas_id 4 4, op 8 2, reserved 10 2;
        HwptAlloc 48: size 0 4, flags 4 4, dev_id 8 4, pt_id 12 4, out_hwpt_id 16 4, reserved 20 4, data_type 24 4,
            data_len 28 4, data_uptr 32 8, fault_id 40 4, reserved2 44 4;
        GetHwInfo 40: size 0 4, flags 4 4, dev_id 8 4, data_len 12 4, data_uptr 16 8, data_type 24 4,
            out_max_pasid_log2 28 1, reserved 29 3, out_capabilities 32 8;
        HwptSetDirtyTracking 16: size 0 4, flags 4 4, hwpt_id 8 4, reserved 12 4;
        HwptGetDirtyBitmap 48: size 0 4, hwpt_id 4 4, flags 8 4, reserved 12 4, iova 16 8, length 24 8, page_size 32 8,
            data 40 8;
        HwptInvalidate 32: size 0 4, hwpt_id 4 4, data_uptr 8 8, data_type 16 4, entry_len 20 4, entry_num 24 4,
            reserved 28 4;
        FaultQueueAlloc 16: size 0 4, flags 4 4, out_fault_id 8 4, out_fault_fd 12 4;
        IoasMapFile 40: size 0 4, flags 4 4, ioas_id 8 4, fd 12 4, start 16 8, length 24 8, iova 32 8;
        ViommuAlloc 40: size 0 4, flags 4 4, kind 8 4, dev_id 12 4, hwpt_id 16 4, out_viommu_id 20 4, data_len 24 4,
            reserved 28 4, data_uptr 32 8;
        VdeviceAlloc 24: size 0 4, viommu_id 4 4, dev_id 8 4, out_vdevice_id 12 4, virt_id 16 8;
        IoasChangeProcess 8: size 0 4, reserved 4 4;
        VeventqAlloc 32: size 0 4, flags 4 4, viommu_id 8 4, kind 12 4, veventq_depth 16 4, out_veventq_id 20 4,
            out_veventq_fd 24 4, reserved 28 4;
        HwQueueAlloc 40: size 0 4, flags 4 4, viommu_id 8 4, kind 12 4, index 16 4, out_hw_queue_id 20 4,
            nesting_parent_iova 24 8, length 32 8;
        IoasNoiommuGetPa 40: size 0 4, flags 4 4, ioas_id 8 4, reserved 12 4, iova 16 8, length 24 8, out_phys 32 8;
        AttachPt 16: argsz 0 4, flags 4 4, pt_id 8 4, pasid 12 4;
        DetachPt 12: argsz 0 4, flags 4 4, pasid 8 4;
        PageFault 40: flags 0 4, dev_id 4 4, pasid 8 4, grpid 12 4, perm 16 4, reserved 20 4, addr 24 8, length 32 4,
            cookie 36 4;
        PageResponse 8: cookie 0 4, code 4 4;
    }
}
