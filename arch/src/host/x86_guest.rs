//! A guest of x86_64 that does what its test says: the sibling of `guest`, behind the seam that SVM is behind.

use crate::x86_64::vcpu::{
    Context, Entry, Exception, Exit, Left, Registers, State, Tables, Vcpu, Virtualization,
};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the guest does next, and what was done to it.
#[derive(Debug, Default)]
pub struct Script {
    /// Its next runs end so; with none left, it halts.
    pub exits: VecDeque<Left>,
    /// What each run was told.
    pub entries: Vec<Entry>,
    /// It is in an interrupt shadow.
    pub shadow: bool,
    /// It is in its NMI handler.
    pub nmi_masked: bool,
    /// CR8.
    pub task_priority: u8,
    /// CR2.
    pub cr2: u64,
    /// Added to its TSC.
    pub tsc_offset: u64,
    context: Option<Context>,
}

impl Script {
    /// Its next run after those that are said already ends with `exit`, of an instruction that is `length` bytes long.
    pub fn will_exit(&mut self, exit: Exit, length: u64) {
        self.exits.push_back(Left {
            exit,
            interrupted: None,
            reflected: None,
            next: length,
        });
    }

    /// The same with an exception that the hypervisor saw before the guest did.
    pub fn will_reflect(&mut self, exception: Exception) {
        self.exits.push_back(Left {
            exit: Exit::Retry,
            interrupted: None,
            reflected: Some(exception),
            next: 0,
        });
    }
}

/// A vCPU for a test, and what it does.
#[derive(Clone, Debug, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    /// The script.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU that follows it, number `index` of those that use `tables`.
    pub fn vcpu(&self, tables: Arc<Tables>, index: usize) -> Option<Vcpu> {
        Vcpu::new(tables, index, Box::new(self.clone()))
    }
}

impl Virtualization for Scripted {
    fn reset(&mut self, state: &State) {
        let mut script = self.script();
        script.shadow = false;
        script.nmi_masked = false;
        script.task_priority = 0;
        script.tsc_offset = 0;
        script.context = Some(Context {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            cs: state.cs,
            cpl: 0,
        });
    }

    fn run(&mut self, registers: &mut Registers, entry: &Entry) -> Left {
        let mut script = self.script();
        script.entries.push(*entry);
        let mut left = script.exits.pop_front().unwrap_or(Left {
            exit: Exit::Halt,
            interrupted: None,
            reflected: None,
            next: 1,
        });
        left.next = left.next.wrapping_add(registers.rip);
        left
    }

    fn context(&self) -> Context {
        let context = self.script().context;
        context.unwrap_or_else(|| unreachable!("a vCPU is reset when it is made"))
    }

    fn set_efer(&mut self, efer: u64) {
        if let Some(context) = &mut self.script().context {
            context.efer = efer;
        }
    }

    fn task_priority(&self) -> u8 {
        self.script().task_priority
    }

    fn set_task_priority(&mut self, class: u8) {
        self.script().task_priority = class;
    }

    fn set_cr2(&mut self, address: u64) {
        self.script().cr2 = address;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.script().tsc_offset = offset;
    }

    fn is_shadowed(&self) -> bool {
        self.script().shadow
    }

    fn end_shadow(&mut self) {
        self.script().shadow = false;
    }

    fn is_nmi_masked(&self, _registers: &Registers) -> bool {
        self.script().nmi_masked
    }
}
