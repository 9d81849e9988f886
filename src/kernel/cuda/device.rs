//! What the kernels need of a device: memory, compiled functions, launches, a clock. Two implementations: the NVIDIA
//! driver ([`super::driver`]) and, in tests, the CPU emulator that runs the very same sources.

use std::sync::Arc;

use anyhow::Result;

use super::program::Instance;

/// What a launch may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Name as the driver gives it.
    pub name: String,
    /// Architecture that kernels are compiled for, such as `sm_90a`.
    pub arch: String,
    /// Streaming multiprocessors.
    pub n_sm: usize,
    /// L2 cache.
    pub l2_bytes: u64,
    /// Shared memory that one block may opt in to.
    pub smem_block_bytes: usize,
    /// Shared memory of one SM: decides how many blocks reside.
    pub smem_sm_bytes: usize,
    /// Highest SM clock, kHz; `None` where the device does not tell.
    pub sm_clock_khz: Option<u64>,
}

/// Shared memory of an SM that each resident block takes beside what it asks for (sm_80 and later).
const SMEM_RESERVED_BYTES: usize = 1 << 10;

impl Limits {
    /// Blocks with `smem_bytes` of shared memory each that fit on one SM, at least one.
    pub(crate) fn resident(&self, smem_bytes: usize) -> usize {
        (self.smem_sm_bytes / (smem_bytes + SMEM_RESERVED_BYTES)).max(1)
    }
}

/// One kernel argument, by value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Arg {
    /// Address on the device.
    Ptr(u64),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `unsigned long long`.
    U64(u64),
}

impl Arg {
    /// The argument's bytes at the start of an 8-byte slot, as a little-endian device reads them.
    pub(crate) fn slot(self) -> u64 {
        match self {
            Arg::Ptr(value) | Arg::U64(value) => value,
            Arg::I32(value) => u64::from(value.cast_unsigned()),
            Arg::F32(value) => u64::from(value.to_bits()),
        }
    }
}

/// How a function is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads of a block, a multiple of 32.
    pub(crate) block: u32,
    /// Dynamic shared memory.
    pub(crate) smem_bytes: usize,
}

/// A compiled and loaded function; cheap to copy, lives as long as its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function(pub(crate) usize);

/// A device. All calls are made from one thread at a time and are ordered as on one stream.
pub(crate) trait Device: Send + Sync {
    /// What it is.
    fn limits(&self) -> &Limits;
    /// Memory that can be allocated now, if the device tells.
    fn free_bytes(&self) -> Option<u64>;
    /// Address of `bytes` new bytes, 256-byte aligned, contents undefined. Use [`Buffer`].
    ///
    /// # Errors
    /// Out of memory: says how much was asked for and how much there is.
    fn alloc(&self, bytes: u64) -> Result<u64>;
    /// Gives memory back.
    fn free(&self, address: u64);
    /// Host to device; complete on return.
    ///
    /// # Errors
    /// The driver refused.
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()>;
    /// Device to host, after all that was launched before.
    ///
    /// # Errors
    /// The driver refused, or an earlier launch failed.
    fn download(&self, address: u64, into: &mut [u8]) -> Result<()>;
    /// Sets every byte.
    ///
    /// # Errors
    /// The driver refused.
    fn fill(&self, address: u64, byte: u8, bytes: u64) -> Result<()>;
    /// Compiles (or finds compiled) and loads one instance.
    ///
    /// # Errors
    /// No NVRTC, a compiler error, a module that does not load.
    fn function(&self, instance: &Instance) -> Result<Function>;
    /// Lane instructions of the function's main loop per KV element, counted in its machine code; `None` where there was no
    /// disassembler, or no such loop.
    fn instructions_per_element(&self, function: Function) -> Option<f64>;
    /// Queues one launch. Dynamic shared memory above 48 KiB is opted in to by the device.
    ///
    /// # Errors
    /// The driver refused: too much shared memory, an invalid grid.
    fn launch(&self, function: Function, launch: Launch, args: &[Arg]) -> Result<()>;
    /// Waits for all that was queued.
    ///
    /// # Errors
    /// A launch failed while it ran.
    fn sync(&self) -> Result<()>;
    /// Captures what `body` launches as a graph that is ready on the device, which [`Device::replay`] runs with one call.
    ///
    /// # Errors
    /// The driver refused, or `body` did.
    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Graph>;
    /// Runs a captured graph once between two events and gives the nanoseconds between them; `None` where the device
    /// has no clock (the emulator).
    ///
    /// # Errors
    /// The driver refused, or a launch failed while it ran.
    fn replay(&self, graph: Graph) -> Result<Option<i64>>;
    /// Frees a graph.
    fn forget(&self, graph: Graph);
}

/// A captured sequence of launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Graph(pub(crate) usize);

/// Device memory that is freed when dropped.
pub(crate) struct Buffer {
    device: Arc<dyn Device>,
    address: u64,
    bytes: u64,
}

impl Buffer {
    /// New memory, every byte 0xFF: NaN as f16, bf16 and f32, -1 as an index, so that what was never written shows.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn poisoned(device: &Arc<dyn Device>, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(1);
        let address = device.alloc(bytes)?;
        let buffer = Self { device: Arc::clone(device), address, bytes };
        buffer.fill(0xFF)?;
        Ok(buffer)
    }

    /// New memory holding `values`.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn of<T: Plain>(device: &Arc<dyn Device>, values: &[T]) -> Result<Self> {
        let buffer = Self::poisoned(device, size_of_val(values) as u64)?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Argument for a launch.
    pub(crate) fn arg(&self) -> Arg {
        Arg::Ptr(self.address)
    }

    /// Size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn fill(&self, byte: u8) -> Result<()> {
        self.device.fill(self.address, byte, self.bytes)
    }

    /// Writes `values` from byte `offset` on.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn write<T: Plain>(&self, offset: u64, values: &[T]) -> Result<()> {
        anyhow::ensure!(
            offset + size_of_val(values) as u64 <= self.bytes,
            "write beyond a device buffer of {} bytes",
            self.bytes
        );
        self.device.upload(self.address + offset, T::bytes(values))
    }

    /// Reads `count` values from byte `offset` on.
    ///
    /// # Errors
    /// The driver refused, or an earlier launch failed.
    pub(crate) fn read<T: Plain>(&self, offset: u64, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::default(); count];
        anyhow::ensure!(
            offset + size_of_val(values.as_slice()) as u64 <= self.bytes,
            "read beyond a device buffer of {} bytes",
            self.bytes
        );
        self.device.download(self.address + offset, T::bytes_mut(&mut values))?;
        Ok(values)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.free(self.address);
    }
}

/// Numbers that are the same bytes on host and device.
pub(crate) trait Plain: Copy + Default {
    /// As bytes.
    fn bytes(values: &[Self]) -> &[u8];
    /// As bytes to write to.
    fn bytes_mut(values: &mut [Self]) -> &mut [u8];
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Plain for $type {
            fn bytes(values: &[Self]) -> &[u8] {
                // SAFETY: a number without padding is readable as bytes; the length is that of the slice.
                unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
            }

            fn bytes_mut(values: &mut [Self]) -> &mut [u8] {
                // SAFETY: as above, and every bit pattern is a valid number.
                unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
            }
        }
    )*};
}

plain!(u8, u16, u32, u64, i32, f32, half::f16, half::bf16);
