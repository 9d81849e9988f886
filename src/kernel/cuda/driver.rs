//! The device of real runs: the NVIDIA driver through cudarc, one stream, modules from [`super::compile`].
//!
//! cudarc binds each symbol on first use and panics where the library is missing, so that [`Driver::first`] looks for it
//! first. A context belongs to a thread: every call makes ours current, which costs some tens of nanoseconds outside
//! the timed window.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::{Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, ensure};
use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

use super::{
    compile::{Binary, Compiler},
    device::{Arg, Device, Function, Graph, Launch, Limits},
    nvrtc::Tools,
    program::Instance,
};
use crate::units::human_bytes;

/// Dynamic shared memory that needs no opting in.
const SMEM_DEFAULT: usize = 48 << 10;

/// One GPU.
pub(crate) struct Driver {
    limits: Limits,
    context: sys::CUcontext,
    stream: sys::CUstream,
    start: sys::CUevent,
    end: sys::CUevent,
    compiler: Compiler,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    functions: Vec<Loaded>,
    known: HashMap<Instance, Function>,
    graphs: Vec<Option<sys::CUgraphExec>>,
}

struct Loaded {
    function: sys::CUfunction,
    smem_opted: usize,
    instructions_per_element: Option<f64>,
}

// SAFETY: the handles are the driver's own pointers, which it lets any thread use once the context is current there;
// the trait's contract is that calls come from one thread at a time.
unsafe impl Send for Driver {}
// SAFETY: as above; what is changed lies behind the mutex.
unsafe impl Sync for Driver {}

fn failed(what: &str) -> impl Fn(DriverError) -> anyhow::Error + '_ {
    move |error| anyhow::anyhow!("CUDA: {what}: {:?}", error.0)
}

impl Driver {
    /// The first device, with a compiler for its architecture.
    ///
    /// # Errors
    /// No driver, no device, no NVRTC: each with a remedy.
    pub(crate) fn first(tools: &Tools) -> Result<Self> {
        // SAFETY: only tries to open the library.
        let present = unsafe { sys::is_culib_present() };
        ensure!(
            present,
            "no NVIDIA driver: libcuda.so.1 is not there\n  hint: device = \"cpu\", or a machine with a driver"
        );
        result::init().map_err(failed("the driver does not start"))?;
        let count = result::device::get_count().map_err(failed("no device"))?;
        ensure!(count > 0, "a driver, but no device\n  hint: is CUDA_VISIBLE_DEVICES empty?");
        let device = result::device::get(0).map_err(failed("device 0"))?;
        let limits = limits(device).map_err(failed("attributes of device 0"))?;
        let compiler = Compiler::new(tools, &limits.arch)?;
        // SAFETY: the device is the driver's; the context is kept for as long as the process lives.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("context"))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(failed("context"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("stream"))?;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (event().map_err(failed("event"))?, event().map_err(failed("event"))?);
        Ok(Self { limits, context, stream, start, end, compiler, state: Mutex::default() })
    }

    /// What compiles for it.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("context"))
    }

    fn load(&self, binary: &Binary) -> Result<sys::CUfunction> {
        let name = CString::new(binary.lowered.as_str())?;
        // SAFETY: the image is a whole CUBIN, made by NVRTC or read back with its hash; modules are never unloaded.
        let module = unsafe { result::module::load_data(binary.cubin.as_ptr().cast()) };
        let module = module
            .map_err(failed("a kernel does not load"))
            .with_context(|| format!("{} for {}", binary.instance.expression, self.limits.arch))?;
        // SAFETY: the module is live and the name is the compiler's.
        unsafe { result::module::get_function(module, name) }.map_err(failed("function"))
    }

    /// Opts in to more shared memory than a kernel may have by default.
    fn opt_in(&self, loaded: &mut Loaded, smem_bytes: usize) -> Result<()> {
        use sys::CUfunction_attribute_enum as Attribute;
        if smem_bytes <= loaded.smem_opted.max(SMEM_DEFAULT) {
            return Ok(());
        }
        let most = self.limits.smem_block_bytes;
        ensure!(
            smem_bytes <= most,
            "shared memory: expected at most {most} bytes a block on {}, got {smem_bytes}",
            self.limits.name
        );
        let set = |attribute, value| {
            // SAFETY: the function belongs to a live module.
            unsafe { result::function::set_function_attribute(loaded.function, attribute, value) }
                .map_err(failed("shared memory"))
        };
        let bytes = i32::try_from(smem_bytes)?;
        set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)?;
        // Percent of the L1 that becomes shared memory: these kernels stream past L1.
        set(Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
        loaded.smem_opted = smem_bytes;
        Ok(())
    }
}

fn limits(device: sys::CUdevice) -> Result<Limits, DriverError> {
    use sys::CUdevice_attribute as Attribute;
    // SAFETY: `device` comes from the driver.
    let get = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    let size = |attribute| get(attribute).map(|value| usize::try_from(value).unwrap_or(0));
    let major = get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let clock = get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).ok();
    Ok(Limits {
        name: result::device::get_name(device)?,
        arch: arch(major, minor),
        n_sm: size(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2_bytes: size(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as u64,
        smem_block_bytes: size(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        smem_sm_bytes: size(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        sm_clock_khz: clock.and_then(|khz| u64::try_from(khz).ok()).filter(|&khz| khz > 0),
    })
}

/// The name NVRTC has for a compute capability; Hopper's own instructions need the `a`.
fn arch(major: i32, minor: i32) -> String {
    let own = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

impl Device for Driver {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn free_bytes(&self) -> Option<u64> {
        self.enter().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free as u64)
    }

    fn alloc(&self, bytes: u64) -> Result<u64> {
        self.enter()?;
        // SAFETY: plain device memory; the address is given to `Buffer`, which frees it once.
        let address = unsafe { result::malloc_sync(usize::try_from(bytes)?) };
        address.map_err(|error| {
            let free = self.free_bytes().map_or_else(|| "unknown".to_owned(), human_bytes);
            anyhow::anyhow!(
                "device memory: expected {}, got {:?} with {free} free\n  hint: lower batch, kv_len or \
                 timing.rotate_llc",
                human_bytes(bytes),
                error.0
            )
        })
    }

    fn free(&self, address: u64) {
        if self.enter().is_ok() {
            // SAFETY: the address came from `alloc` and is freed once, by `Buffer`. A context that a failed launch broke
            // refuses; the memory goes with the process then.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // On our stream, which the others do not wait for, so that it is ordered with the launches before and after.
        // SAFETY: `Buffer` keeps the range inside its memory, and `bytes` outlive the copy: it is waited for.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream) }
            .map_err(failed("copy to the device"))?;
        self.sync()
    }

    fn download(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.sync()?;
        // SAFETY: `Buffer` keeps the range inside its memory.
        unsafe { result::memcpy_dtoh_sync(into, address) }.map_err(failed("copy from the device"))
    }

    fn fill(&self, address: u64, byte: u8, bytes: u64) -> Result<()> {
        self.enter()?;
        let bytes = usize::try_from(bytes)?;
        // SAFETY: `Buffer` keeps the range inside its memory. On our stream, so that it is ordered with the launches.
        unsafe { result::memset_d8_async(address, byte, bytes, self.stream) }
            .map_err(failed("filling memory"))
    }

    fn function(&self, instance: &Instance) -> Result<Function> {
        if let Some(&known) = self.state().known.get(instance) {
            return Ok(known);
        }
        let binary = self.compiler.build(instance)?;
        self.enter()?;
        let function = self.load(&binary)?;
        let mut state = self.state();
        let instructions_per_element = binary.instructions_per_element();
        state.functions.push(Loaded { function, smem_opted: 0, instructions_per_element });
        let handle = Function(state.functions.len() - 1);
        state.known.insert(instance.clone(), handle);
        Ok(handle)
    }

    fn instructions_per_element(&self, function: Function) -> Option<f64> {
        self.state().functions[function.0].instructions_per_element
    }

    fn launch(&self, function: Function, launch: Launch, args: &[Arg]) -> Result<()> {
        self.enter()?;
        let mut state = self.state();
        let loaded = &mut state.functions[function.0];
        self.opt_in(loaded, launch.smem_bytes)?;
        let mut slots: Vec<u64> = args.iter().map(|arg| arg.slot()).collect();
        let mut places: Vec<*mut c_void> =
            slots.iter_mut().map(|slot| std::ptr::from_mut(slot).cast()).collect();
        let [x, y, z] = launch.grid;
        let smem = u32::try_from(launch.smem_bytes)?;
        let (function, block) = (loaded.function, (launch.block, 1, 1));
        // SAFETY: the function is live, each argument has its own slot of eight bytes, and the driver copies them before
        // it returns; buffers outlive the launch because `Buffer` frees through the driver, in order.
        unsafe { result::launch_kernel(function, (x, y, z), block, smem, self.stream, &mut places) }
            .map_err(failed("launch"))
            .with_context(|| {
                format!("grid {:?}, block {}, {smem} B shared", launch.grid, launch.block)
            })
    }

    fn sync(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(failed("a kernel failed while it ran"))
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.sync()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours and idle.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed("capture"))?;
        let outcome = body();
        // SAFETY: the capture began above; it must end whatever `body` did.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        outcome?;
        let graph = graph.map_err(failed("capture"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just captured; once instantiated it is not needed.
        let (exec, freed) =
            unsafe { (result::graph::instantiate(graph, flags), result::graph::destroy(graph)) };
        freed.map_err(failed("graph"))?;
        let exec = exec.map_err(failed("graph"))?;
        // Uploaded here and not by a first replay, which would leave its data in the L2 for the one that is timed.
        // SAFETY: graph and stream are live.
        unsafe { result::graph::upload(exec, self.stream) }.map_err(failed("graph"))?;
        let mut state = self.state();
        state.graphs.push(Some(exec));
        Ok(Graph(state.graphs.len() - 1))
    }

    fn replay(&self, graph: Graph) -> Result<Option<i64>> {
        self.enter()?;
        let exec =
            self.state().graphs[graph.0].context("a graph is replayed after it was freed")?;
        // SAFETY: stream, events and graph are live.
        let elapsed_ms = unsafe {
            result::event::record(self.start, self.stream)
                .and_then(|()| result::graph::launch(exec, self.stream))
                .and_then(|()| result::event::record(self.end, self.stream))
                .and_then(|()| result::event::synchronize(self.end))
                .and_then(|()| result::event::elapsed(self.start, self.end))
        };
        let elapsed_ms = elapsed_ms.map_err(failed("a timed launch"))?;
        // The driver gives milliseconds with a resolution of about half a microsecond.
        Ok(Some((f64::from(elapsed_ms) * 1e6).round() as i64))
    }

    fn forget(&self, graph: Graph) {
        let exec = self.state().graphs[graph.0].take();
        if let Some(exec) = exec
            && self.enter().is_ok()
        {
            // SAFETY: the graph is live and taken out of the list. As with memory, a broken context may refuse.
            let _ = unsafe { result::graph::exec_destroy(exec) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_the_compilers_names() {
        assert_eq!(arch(8, 0), "sm_80");
        assert_eq!(arch(8, 9), "sm_89");
        assert_eq!(arch(9, 0), "sm_90a");
    }
}
