//! The simulated driver's own functions, by which a study sets a machine and reads its time.
//!
//! The engine does not know this module: it makes the same calls of the driver, whichever library
//! they go to. `cuda-sim/README.md` says what virtual time is made of.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use super::{cublaslt, driver};

/// The file name of the simulated driver's library.
pub const LIBRARY: &str = "libseqstream_cuda_sim.so";

/// Why there is no simulator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulatorError {
    /// The library is in none of the places.
    #[error(
        "the library of the simulated driver, {LIBRARY}, is not at {}",
        list(tried)
    )]
    Missing {
        /// The places.
        tried: Vec<PathBuf>,
    },
    /// The library is no simulated driver of this version.
    #[error("{}: {reason}", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

fn list(tried: &[PathBuf]) -> String {
    let places: Vec<String> = tried
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    places.join(" or ")
}

/// A launch of a kernel, as a cost function sees it.
pub struct Launch<'a> {
    /// The name of the kernel.
    pub name: &'a str,
    /// The bytes of its parameter.
    params: &'a [u8],
    /// The number of blocks in each dimension.
    pub grid: [u32; 3],
    raw: &'a RawLaunch,
}

impl Launch<'_> {
    /// Returns a field of the parameter by its offset; `None` if the parameter ends before it.
    pub fn u32_at(&self, offset: usize) -> Option<u32> {
        let bytes = self.params.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Returns a field of the parameter by its offset; `None` if the parameter ends before it.
    pub fn u64_at(&self, offset: usize) -> Option<u64> {
        let bytes = self.params.get(offset..offset + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Reads device memory; `None` if it is not known there.
    pub fn read(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; bytes];
        let place = out.as_mut_ptr().cast::<c_void>();
        // SAFETY: the function belongs to the simulator, which is waiting for the cost function;
        // the buffer has `bytes` bytes.
        let code = unsafe { (self.raw.read)(self.raw.memory, address, place, bytes) };
        (code == 0).then_some(out)
    }
}

/// The work of a launch, in the units of one of the machine's rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// The name of the rate.
    pub rate: &'static CStr,
    /// The number of units: operations or bytes.
    pub amount: f64,
    /// The size at which the rate is looked up.
    pub size: f64,
}

/// Says what a launch costs; `None` if the kernel, or its work, is not known.
pub type CostFunction = fn(&Launch<'_>) -> Option<Cost>;

/// A kind of engine of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Copies to the device.
    ToDevice = 0,
    /// Copies to the host.
    ToHost = 1,
    /// Kernels, products, fills, and copies within the device.
    Compute = 2,
}

/// `CostedLaunch` of `cuda-sim/src/clock.rs`.
#[repr(C)]
struct RawLaunch {
    name: *const c_char,
    params: *const c_void,
    params_size: usize,
    grid: [u32; 3],
    block: [u32; 3],
    memory: *const c_void,
    read: unsafe extern "C" fn(*const c_void, u64, *mut c_void, usize) -> c_int,
}

/// `Cost` of `cuda-sim/src/clock.rs`.
#[repr(C)]
struct RawCost {
    rate: *const c_char,
    amount: f64,
    size: f64,
}

type RawCosts = unsafe extern "C" fn(*const RawLaunch, *mut RawCost) -> c_int;
type SetMachine = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    Option<RawCosts>,
    c_int,
    *mut c_char,
    usize,
) -> c_int;

/// The cost function in use.
static COSTS: RwLock<Option<CostFunction>> = RwLock::new(None);

unsafe extern "C" fn costs(launch: *const RawLaunch, cost: *mut RawCost) -> c_int {
    // SAFETY: the simulator passes a launch and a place for its cost, which live during this call.
    // The name is a C string, and the parameter has its size.
    let (raw, cost, name, params) = unsafe {
        let raw = &*launch;
        let params = std::slice::from_raw_parts(raw.params.cast::<u8>(), raw.params_size);
        (raw, &mut *cost, CStr::from_ptr(raw.name), params)
    };
    let Some(function) = *COSTS.read().unwrap_or_else(PoisonError::into_inner) else {
        return 1;
    };
    let Ok(name) = name.to_str() else { return 1 };
    let seen = Launch {
        name,
        params,
        grid: raw.grid,
        raw,
    };
    match function(&seen) {
        Some(found) => {
            *cost = RawCost {
                rate: found.rate.as_ptr(),
                amount: found.amount,
                size: found.size,
            };
            0
        }
        None => 1,
    }
}

/// The simulated driver, to which the calls of this process go.
#[derive(Clone, Copy)]
pub struct Simulator {
    set_machine: SetMachine,
    has_rate: unsafe extern "C" fn(*const c_char) -> c_int,
    machine_name: unsafe extern "C" fn(*mut c_char, usize) -> usize,
    findings: unsafe extern "C" fn(*mut c_char, usize) -> usize,
    now: unsafe extern "C" fn() -> f64,
    host_work: unsafe extern "C" fn(f64),
    busy: unsafe extern "C" fn(c_uint, c_uint) -> f64,
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulator")
    }
}

impl Simulator {
    /// Finds the library: at `path` if that is given, else where `$SEQSTREAM_LIBCUDA` says, else
    /// beside the program. All calls of the driver and of cuBLASLt go there from now on.
    ///
    /// # Errors
    /// [`SimulatorError`] if there is none, or if calls have already gone to another library.
    pub fn open(path: Option<&Path>) -> Result<Self, SimulatorError> {
        static OPEN: OnceLock<libloading::Library> = OnceLock::new();
        let path = find(path)?;
        let refused = |reason: String| SimulatorError::Library {
            path: path.clone(),
            reason,
        };
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| refused("the name has a zero byte".into()))?;
        let wanted = driver::Library::Open(name.to_string_lossy().into_owned());
        match driver::choose(&name) {
            there if there == wanted => {}
            driver::Library::Open(other) => {
                return Err(refused(format!("another driver is open already: {other}")));
            }
            driver::Library::Missing(reason) => return Err(refused(reason)),
        }
        cublaslt::choose(&path);
        // SAFETY: the file is open already, and its constructors have run.
        let opened = unsafe { libloading::Library::new(&path) };
        let opened = opened.map_err(|error| refused(error.to_string()))?;
        let library = OPEN.get_or_init(|| opened);
        let symbol = |name: &str| refused(format!("it has no function {name}; build it again"));
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types are those of cuda-sim/src/control.rs. The library is never
                // closed.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| symbol($name))?
            };
        }
        Ok(Self {
            set_machine: function!("seqstream_sim_set_machine"),
            has_rate: function!("seqstream_sim_has_rate"),
            machine_name: function!("seqstream_sim_machine_name"),
            findings: function!("seqstream_sim_findings"),
            now: function!("seqstream_sim_now"),
            host_work: function!("seqstream_sim_host_work"),
            busy: function!("seqstream_sim_busy"),
        })
    }

    /// Starts over on the machine of a machine file, given as its text. `rates` are the names of all
    /// rates that `costs` may give. Unless `values` is set, nothing is computed, and memory is only
    /// reserved. No device may be in use.
    ///
    /// # Errors
    /// The line, the key and what is wrong there.
    pub fn set_machine(
        &self,
        text: &str,
        rates: &[&CStr],
        costs: CostFunction,
        values: bool,
    ) -> Result<(), String> {
        let text = CString::new(text).map_err(|_| "the file has a zero byte".to_owned())?;
        let names: Vec<&[u8]> = rates.iter().map(|name| name.to_bytes()).collect();
        // The names have no zero byte, so there is one.
        let names = CString::new(names.join(&b' ')).unwrap_or_default();
        *COSTS.write().unwrap_or_else(PoisonError::into_inner) = Some(costs);
        let mut message = [0 as c_char; 4096];
        // SAFETY: both texts are C strings, the buffer has its size, and `costs` keeps the contract
        // of the simulator's type.
        let code = unsafe {
            (self.set_machine)(
                text.as_ptr(),
                names.as_ptr(),
                Some(self::costs as RawCosts),
                values.into(),
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the simulator ends the message with a zero.
        let message = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(message.to_string_lossy().into_owned())
    }

    /// Returns whether the machine has a rate of this name.
    pub fn has_rate(&self, name: &CStr) -> bool {
        // SAFETY: the name is a C string.
        unsafe { (self.has_rate)(name.as_ptr()) == 1 }
    }

    /// Returns the name of the machine.
    pub fn machine_name(&self) -> String {
        text(self.machine_name)
    }

    /// Returns what the simulator found wrong, one finding per line.
    pub fn findings(&self) -> String {
        text(self.findings)
    }

    /// Returns the calling thread's virtual time in seconds.
    pub fn now(&self) -> f64 {
        // SAFETY: the call has no preconditions.
        unsafe { (self.now)() / 1e6 }
    }

    /// Lets the calling thread work for some seconds of virtual time that the simulator cannot see.
    pub fn host_work(&self, seconds: f64) {
        // SAFETY: the call has no preconditions.
        unsafe { (self.host_work)(seconds * 1e6) }
    }

    /// Returns the seconds for which an engine of a device has been busy since the machine was set.
    pub fn busy(&self, device: u32, engine: Engine) -> f64 {
        // SAFETY: the call has no preconditions.
        unsafe { (self.busy)(device, engine as c_uint) / 1e6 }
    }
}

fn text(read: unsafe extern "C" fn(*mut c_char, usize) -> usize) -> String {
    // SAFETY: the function is called first without a buffer, then with one of the size that it
    // asked for. A text that has grown in between is cut.
    unsafe {
        let mut buffer = vec![0u8; read(std::ptr::null_mut(), 0)];
        read(buffer.as_mut_ptr().cast(), buffer.len());
        buffer.truncate(buffer.iter().position(|byte| *byte == 0).unwrap_or(0));
        String::from_utf8_lossy(&buffer).into_owned()
    }
}

fn find(path: Option<&Path>) -> Result<PathBuf, SimulatorError> {
    let named = std::env::var_os("SEQSTREAM_LIBCUDA").filter(|name| !name.is_empty());
    let named = path.map(Path::to_owned).or(named.map(PathBuf::from));
    let tried = match named {
        Some(path) => vec![path],
        None => {
            let program = std::env::current_exe().unwrap_or_default();
            let folder = program.parent().unwrap_or(Path::new(""));
            // Cargo leaves the library of a dependency beside the test programs.
            let below = folder.join(OsStr::new("deps")).join(LIBRARY);
            vec![folder.join(LIBRARY), below]
        }
    };
    let found = tried.iter().find(|path| path.is_file()).cloned();
    found.ok_or(SimulatorError::Missing { tried })
}
