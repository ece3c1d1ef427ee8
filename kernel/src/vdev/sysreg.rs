//! System registers that trap: identification registers with only what works, SMCCC.
