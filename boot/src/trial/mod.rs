//! A guest that the image has in itself, for the test `x86::enters_a_guest`: what SVM, or VMX, does is seen on a machine. Only with the
//! feature `trial`, which nothing that is shipped has.
//!
//! The guest runs in 64-bit mode on 64 KiB of memory from 0 on, and says what it sees through the port of a serial line.

mod guest;

use crate::console;
use alloc::string::String;
use alloc::sync::Arc;
use arch::memory::{FramePool, Frames};
use arch::x86_64::technology::Technology;
use arch::x86_64::vcpu::{
    DescriptorTable, Exception, Exit, RAX, RFLAGS_IF, Registers, State, Tables, Vcpu,
};
use arch::x86_64::{apic, clock, cpu, timer};
use guest::{CODE, GDT, IDT, MEMORY, STACK, TABLES};
use iommu::addr::{Gpa, Hpa, Span};
use iommu::hal::{DmaBuffer, Platform};
use iommu::table::{Attributes, Ept, Format, Invalidated, Npt, PageTable, Replace, Shape};

/// The serial port's data register.
const PORT: u16 = 0x3f8;

/// Exits, at most: the guest makes some 200.
const EXITS: usize = 1000;

/// Memory of the nested tables.
struct Buffer(Frames);

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.0.base())
    }

    fn len(&self) -> usize {
        self.0.len() as usize
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset)
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.0.write64(offset, value);
    }

    fn swap64(&mut self, offset: usize, value: u64) -> u64 {
        self.0.swap64(offset, value)
    }

    fn clean(&self, offset: usize, len: usize) {
        self.0.clean(offset, len);
    }
}

struct Host(&'static FramePool);

impl Platform for Host {
    type Buffer = Buffer;

    fn allocate(&self, len: usize) -> Option<Buffer> {
        self.0.allocate(len as u64, len as u64).map(Buffer)
    }

    fn write_barrier(&self) {
        arch::barrier::dma_write();
    }

    fn read_barrier(&self) {
        arch::barrier::dma_read();
    }

    fn now_ns(&self) -> u64 {
        arch::clock::now_ns()
    }
}

/// Says what goes wrong, and what does not; returns when the guest has ended.
pub fn run(frames: &'static FramePool) {
    match Technology::detect() {
        Ok(technology @ Technology::Svm { .. }) => {
            console::line(format_args!("trial: SVM"));
            run_as::<Npt>(frames, &technology);
        }
        Ok(technology @ Technology::Vmx { .. }) => {
            console::line(format_args!("trial: VMX"));
            run_as::<Ept>(frames, &technology);
        }
        Err(error) => console::line(format_args!("trial: {error}")),
    }
}

fn run_as<F: Format<Attributes = Attributes>>(frames: &'static FramePool, technology: &Technology) {
    let Some(mut trial) = Trial::<F>::new(frames, technology) else {
        return console::line(format_args!("trial: no memory"));
    };
    for _ in 0..EXITS {
        let exit = trial.vcpu.run();
        if !trial.handle(exit) {
            return;
        }
    }
    console::line(format_args!("trial: {EXITS} exits"));
}

struct Trial<F: Format> {
    vcpu: Vcpu,
    memory: Frames,
    nested: PageTable<Host, F>,
    tables: Arc<Tables>,
    said: String,
    halts: usize,
}

fn span(base: u64, len: u64) -> Span<Gpa> {
    Span {
        base: Gpa(base),
        len,
    }
}

impl<F: Format<Attributes = Attributes>> Trial<F> {
    fn new(frames: &'static FramePool, technology: &Technology) -> Option<Self> {
        let memory = frames.allocate(MEMORY, MEMORY)?;
        guest::load(&memory);
        let shape = Shape {
            replace: Replace::InPlace,
            ..Shape::new(48)
        };
        let mut nested = PageTable::<_, F>::with_shape(Arc::new(Host(frames)), shape).ok()?;
        nested
            .map(span(0, MEMORY), Hpa(memory.base()), Attributes::RAM)
            .ok()?;
        let tables = Arc::new(Tables::new(nested.root().0, 4, 1));
        let mut vcpu = technology.vcpu(&tables, 0, None)?;
        let gdt = DescriptorTable {
            base: GDT,
            limit: 31,
        };
        let state = State {
            idtr: DescriptorTable {
                base: IDT,
                limit: 0xfff,
            },
            ..State::long(CODE, TABLES, gdt)
        };
        vcpu.reset(&state, Registers::default());
        Some(Self {
            vcpu,
            memory,
            nested,
            tables,
            said: String::new(),
            halts: 0,
        })
    }

    /// Whether the guest goes on.
    fn handle(&mut self, exit: Exit) -> bool {
        match exit {
            Exit::Io(access) if access.port == PORT && access.size == 1 => {
                if access.write {
                    self.say(self.vcpu.registers().general[RAX] as u8);
                    self.vcpu.skip_instruction();
                } else {
                    self.vcpu.complete_in(&access, u32::from(b'i'));
                }
            }
            Exit::Cpuid => self.vcpu.complete_cpuid([0, u32::from(b'S'), 0, 0]),
            Exit::Msr { .. } => return self.inject(Exception::GENERAL_PROTECTION),
            Exit::Undefined => return self.inject(Exception::UNDEFINED),
            Exit::NestedFault(fault) if (STACK..STACK + 0x1000).contains(&fault.gpa) => {
                console::line(format_args!(
                    "trial: its stack is missed at {:#x}",
                    fault.gpa
                ));
                let at = Hpa(self.memory.base() + STACK);
                let mapped = self.nested.map(span(STACK, 0x1000), at, Attributes::RAM);
                return mapped.is_ok();
            }
            Exit::NestedFault(fault) => {
                let what = match (fault.write, fault.fetch) {
                    (true, _) => "store to",
                    (_, true) => "fetch from",
                    _ => "load from",
                };
                console::line(format_args!(
                    "trial: {what} {:#x}, walk {}, present {}",
                    fault.gpa, fault.walk, fault.present
                ));
                if fault.write {
                    self.vcpu.skip_bytes(3);
                } else {
                    let rax = self.vcpu.registers().general[RAX];
                    self.vcpu.registers_mut().general[RAX] = rax & !0xff | u64::from(b'L');
                    self.vcpu.skip_bytes(3);
                }
            }
            Exit::Halt => self.halt(),
            Exit::InterruptWindow => {
                console::line(format_args!("trial: it takes interrupts"));
                self.vcpu.want_window(None);
                self.interrupt();
            }
            Exit::NmiWindow => console::line(format_args!(
                "trial: end of its NMI handler, {} for another",
                if self.vcpu.can_nmi() {
                    "ready"
                } else {
                    "not ready"
                }
            )),
            Exit::Interrupt => {
                cpu::look_at_interrupts();
                if cpu::take_interrupt() == Some(timer::VECTOR) {
                    apic::end_of_interrupt();
                    console::line(format_args!("trial: the timer's interrupt comes first"));
                    guest::let_go(&self.memory);
                }
            }
            Exit::Retry => {}
            Exit::Shutdown => {
                console::line(format_args!("trial: it has shut itself down"));
                return false;
            }
            other => {
                let code = match other {
                    Exit::Unknown(code) => code,
                    _ => 0,
                };
                let rip = self.vcpu.registers().rip;
                console::line(format_args!("trial: exit {code:#x} at {rip:#x}"));
                return false;
            }
        }
        true
    }

    fn halt(&mut self) {
        self.halts += 1;
        self.vcpu.skip_instruction();
        match self.halts {
            1 => self.interrupt(),
            2 if self.vcpu.registers().rflags & RFLAGS_IF == 0 => self.vcpu.want_window(Some(4)),
            3 => {
                let cut = self.nested.unmap(span(STACK, 0x1000));
                let change = self.tables.changed();
                if self.tables.is_forgotten(change) {
                    self.nested.release(cut, Invalidated::complete());
                }
                self.interrupt();
            }
            4 => self.vcpu.nmi(),
            _ => timer::set(clock::now_ns() + 1_000_000),
        }
    }

    fn interrupt(&mut self) {
        if self.vcpu.can_interrupt() {
            self.vcpu.interrupt(0x41);
        } else {
            console::line(format_args!("trial: it takes no interrupt"));
        }
    }

    fn inject(&mut self, exception: Exception) -> bool {
        self.vcpu.inject(exception).is_ok()
    }

    fn say(&mut self, byte: u8) {
        if byte == b'\n' {
            console::line(format_args!("guest: {}", self.said));
            self.said.clear();
        } else {
            self.said.push(char::from(byte));
        }
    }
}
