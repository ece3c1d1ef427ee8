//! Virtual ITS (IHI 0069, chapter 5): the guest's commands, on top of the physical ITS.
