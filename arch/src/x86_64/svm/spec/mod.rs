//! What SVM lays down (AMD64 Architecture Programmer's Manual, volume 2, chapter 15 and appendices A to C). Definitions only.

pub mod exit;
pub mod feature;
pub mod intercept;
pub mod vmcb;
