//! Start of a program and system calls, as Linux has them on arm64 (its `include/uapi/asm-generic/unistd.h`; number in x8,
//! arguments in x0 to x5, result or negative error in x0).

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::AtomicU64;

const IOCTL: usize = 29;
const OPENAT: usize = 56;
const CLOSE: usize = 57;
const WRITE: usize = 64;
const PREAD64: usize = 67;
const PWRITE64: usize = 68;
const READLINKAT: usize = 78;
const EXIT_GROUP: usize = 94;
const NANOSLEEP: usize = 101;
const MMAP: usize = 222;

/// A path counts from the working directory, or from the root.
const AT_FDCWD: usize = -100isize as usize;
const O_RDWR: usize = 2;
const PROT_READ_WRITE: usize = 3;
const MAP_SHARED: usize = 1;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;

/// A refused system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "b {start}",
    start = sym start,
);

unsafe extern "Rust" {
    /// What [`entry!`](crate::entry) names.
    safe fn scenario(arguments: Arguments) -> bool;
}

/// Names the scenario: it gets its arguments and says whether it passed.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn scenario(arguments: $crate::system::Arguments) -> bool {
            $main(arguments)
        }
    };
}

/// `stack`: argc, then the arguments, each a pointer.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel has put argc there (ELF psABI, process initialization), and nobody changes it.
    let count = unsafe { *stack };
    let arguments = Arguments {
        first: stack.wrapping_add(1).cast(),
        count,
    };
    exit(i32::from(!scenario(arguments)))
}

/// What the program was called with.
#[derive(Clone, Copy)]
pub struct Arguments {
    first: *const *const c_char,
    count: usize,
}

impl Arguments {
    /// The argument at `index`; 0 is the program.
    pub fn get(&self, index: usize) -> Option<&'static CStr> {
        if index >= self.count {
            return None;
        }
        // SAFETY: below argc, so a pointer to a string with a NUL, which stays for as long as the program.
        Some(unsafe { CStr::from_ptr(*self.first.add(index)) })
    }
}

/// # Safety
/// The kernel does with `arguments` what the caller's contract says.
unsafe fn call(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [mut x0, x1, x2, x3, x4, x5] = arguments;
    // SAFETY: the kernel keeps all registers but x0; the effect on memory is the caller's affair.
    unsafe {
        asm!("svc #0", inout("x0") x0, in("x1") x1, in("x2") x2, in("x3") x3, in("x4") x4, in("x5") x5,
            in("x8") number, options(nostack));
    }
    match x0 as isize {
        error @ -4095..0 => Err(Errno(-error as i32)),
        _ => Ok(x0),
    }
}

/// Ends the program.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: ends everything.
        let _ = unsafe { call(EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Lets others run for a while.
pub fn sleep_ms(ms: u32) {
    let time = [u64::from(ms / 1000), u64::from(ms % 1000) * 1_000_000];
    // SAFETY: reads a `timespec`, two words.
    let _ = unsafe { call(NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// Where the link at `path` leads, in `buffer`.
///
/// # Errors
/// The kernel's.
pub fn read_link<'b>(path: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let (at, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: writes at most `len` bytes into `buffer`.
    let len = unsafe {
        call(
            READLINKAT,
            [AT_FDCWD, path.as_ptr() as usize, at, len, 0, 0],
        )?
    };
    Ok(&buffer[..len])
}

/// An open file.
#[derive(Debug)]
pub struct File(usize);

impl File {
    /// Opens for reading and writing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &CStr) -> Result<Self, Errno> {
        // SAFETY: reads a string with a NUL.
        let file = unsafe { call(OPENAT, [AT_FDCWD, path.as_ptr() as usize, O_RDWR, 0, 0, 0])? };
        Ok(Self(file))
    }

    /// Writes `bytes` to the file at `path` in one go, as sysfs wants it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
        const O_WRONLY: usize = 1;
        // SAFETY: reads a string with a NUL.
        let file = unsafe {
            call(
                OPENAT,
                [AT_FDCWD, path.as_ptr() as usize, O_WRONLY, 0, 0, 0],
            )?
        };
        Self(file).write(bytes)
    }

    /// Takes over the descriptor that a request has given.
    pub(crate) fn of_descriptor(descriptor: usize) -> Self {
        Self(descriptor)
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> usize {
        self.0
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        // SAFETY: reads `bytes`.
        unsafe {
            call(
                WRITE,
                [self.0, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0],
            )
        }
        .map(drop)
    }

    /// Reads 16 bits at `offset`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read16(&self, offset: u64) -> Result<u16, Errno> {
        let mut bytes = [0u8; 2];
        let (at, len) = (bytes.as_mut_ptr() as usize, bytes.len());
        // SAFETY: writes at most `len` bytes into `bytes`.
        unsafe { call(PREAD64, [self.0, at, len, offset as usize, 0, 0])? };
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes 16 bits at `offset`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write16(&self, offset: u64, value: u16) -> Result<(), Errno> {
        let bytes = value.to_le_bytes();
        let (at, len) = (bytes.as_ptr() as usize, bytes.len());
        // SAFETY: reads `bytes`.
        unsafe { call(PWRITE64, [self.0, at, len, offset as usize, 0, 0]) }.map(drop)
    }

    /// `ioctl`.
    ///
    /// # Errors
    /// The kernel's.
    ///
    /// # Safety
    /// `argument` is what `request` takes on this file.
    pub unsafe fn ioctl(&self, request: usize, argument: usize) -> Result<usize, Errno> {
        // SAFETY: the caller's contract.
        unsafe { call(IOCTL, [self.0, request, argument, 0, 0, 0]) }
    }

    /// Maps `len` bytes from `offset` of the file on, for as long as the program runs; the first of them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map(&self, offset: u64, len: usize) -> Result<usize, Errno> {
        let arguments = [0, len, PROT_READ_WRITE, MAP_SHARED, self.0, offset as usize];
        // SAFETY: the kernel chooses a free range.
        unsafe { call(MMAP, arguments) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: nobody else uses the descriptor.
        let _ = unsafe { call(CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }
}

/// `words` words of fresh memory for a device, for as long as the program runs; atomics, because it writes behind our back.
///
/// # Errors
/// The kernel's.
pub fn memory(words: usize) -> Result<&'static [AtomicU64], Errno> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let arguments = [0, words * 8, PROT_READ_WRITE, flags, usize::MAX, 0];
    // SAFETY: the kernel chooses a free range.
    let at = unsafe { call(MMAP, arguments)? };
    // SAFETY: `words` zeroed words, page-aligned, that nothing else refers to and nobody unmaps.
    Ok(unsafe { core::slice::from_raw_parts(at as *const AtomicU64, words) })
}

/// A short text, for paths and lines: what does not fit is cut.
pub struct Text {
    bytes: [u8; 192],
    len: usize,
}

impl Text {
    /// `what` as text.
    pub fn new(what: fmt::Arguments<'_>) -> Self {
        let mut text = Self {
            bytes: [0; 192],
            len: 0,
        };
        let _ = text.write_fmt(what);
        text
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The same with a NUL.
    pub fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte is left for the NUL.
        let room = self.bytes.len() - 1 - self.len;
        let len = text.len().min(room);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Says a line on the standard output, in one go.
pub fn say(what: fmt::Arguments<'_>) {
    let line = Text::new(format_args!("{what}\n"));
    let out = core::mem::ManuallyDrop::new(File(1));
    let _ = out.write(line.bytes());
}

/// What a scenario checks.
#[derive(Default)]
pub struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    /// One check: says it, and remembers whether it held.
    pub fn check(&mut self, held: bool, what: fmt::Arguments<'_>) {
        let count = if held {
            &mut self.passed
        } else {
            &mut self.failed
        };
        *count += 1;
        let word = if held { "ok" } else { "FAILED" };
        say(format_args!("check {word}: {what}"));
    }

    /// The last line. A scenario that checked nothing has failed.
    pub fn finish(self) -> bool {
        let passed = self.failed == 0 && self.passed > 0;
        let word = if passed { "passed" } else { "failed" };
        say(format_args!(
            "result: {word} ({} ok, {} failed)",
            self.passed, self.failed
        ));
        passed
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("{info}"));
    say(format_args!("result: failed (panic)"));
    exit(1)
}
