//! Layouts of Intel VT-d (Intel Virtualization Technology for Directed I/O, Architecture Specification, section numbers of
//! revision 5.10): definitions only, no behaviour. Second-stage entries are in [`crate::table::spec`].

pub mod context;
pub mod descriptor;
pub mod fault;
pub mod irte;
pub mod page_request;
pub mod pasid;
pub mod registers;
