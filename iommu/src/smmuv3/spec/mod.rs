//! Layouts of Arm SMMUv3 (IHI 0070, section numbers of issue H.a): definitions only, no behaviour.

pub mod cd;
pub mod command;
pub mod event;
pub mod page_request;
pub mod registers;
pub mod ste;
