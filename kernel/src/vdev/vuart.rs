//! Virtual PL011 (DDI 0183).
