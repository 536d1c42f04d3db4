//! Initialisation, devices, and the names of result codes.

use std::ffi::{c_char, c_int, c_uint};

use crate::abi::{Out, api, put_text};
use crate::code::Code;
use crate::sim::Sim;

/// The version of the driver, CUDA 13.0.
const VERSION: c_int = 13_000;

impl Sim {
    fn checked_device(&self, device: c_int) -> Result<usize, Code> {
        self.ready()?;
        let index = usize::try_from(device).map_err(|_| Code::INVALID_DEVICE)?;
        if index < self.config.devices {
            Ok(index)
        } else {
            Err(Code::INVALID_DEVICE)
        }
    }

    /// Checks the index of a device.
    pub(super) fn device_index(&self, device: c_int) -> Result<usize, Code> {
        self.checked_device(device)
    }

    fn device_name(&self) -> &str {
        if let Some(machine) = &self.config.machine {
            return &machine.device.name;
        }
        match self.config.architecture {
            80 => "Simulated A100",
            89 => "Simulated L40S",
            _ => "Simulated H100",
        }
    }

    /// Returns an attribute of a device, or `None` for attributes that are not simulated.
    fn attribute(&self, attribute: c_int, device: usize) -> Option<c_int> {
        let architecture = self.config.architecture;
        // Shared memory per multiprocessor in KiB and L2 in MiB are as on the cards of these names.
        // There are few multiprocessors, so that kernels which fill a card with blocks, and engines
        // which fill it with work, have little to do here.
        let processors = match &self.config.machine {
            Some(machine) => c_int::try_from(machine.device.multiprocessors.0).ok()?,
            None => 4,
        };
        let (shared_kib, l2_mib) = match architecture {
            80 => (164, 40),
            89 => (100, 48),
            _ => (228, 50),
        };
        Some(match attribute {
            1 => 1024,                               // MAX_THREADS_PER_BLOCK
            2 | 3 => 1024,                           // MAX_BLOCK_DIM_X, Y
            4 => 64,                                 // MAX_BLOCK_DIM_Z
            5 => c_int::MAX,                         // MAX_GRID_DIM_X
            6 | 7 => 65_535,                         // MAX_GRID_DIM_Y, Z
            8 => 48 << 10,                           // MAX_SHARED_MEMORY_PER_BLOCK
            9 => 64 << 10,                           // TOTAL_CONSTANT_MEMORY
            10 => 32,                                // WARP_SIZE
            12 | 82 => 65_536,                       // MAX_REGISTERS_PER_BLOCK, PER_MULTIPROCESSOR
            13 => 1_755_000,                         // CLOCK_RATE, kHz
            14 => 512,                               // TEXTURE_ALIGNMENT
            16 => processors,                        // MULTIPROCESSOR_COUNT
            17 | 18 | 20 => 0, // KERNEL_EXEC_TIMEOUT, INTEGRATED, COMPUTE_MODE
            19 => 1,           // CAN_MAP_HOST_MEMORY
            31 | 40 | 41 => 1, // CONCURRENT_KERNELS, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING
            33 => c_int::try_from(device).ok()? + 1, // PCI_BUS_ID
            34 | 50 => 0,      // PCI_DEVICE_ID, PCI_DOMAIN_ID
            36 => 2_619_000,   // MEMORY_CLOCK_RATE, kHz
            37 => 5120,        // GLOBAL_MEMORY_BUS_WIDTH
            38 => l2_mib << 20, // L2_CACHE_SIZE
            39 => {
                if architecture == 89 {
                    1536
                } else {
                    2048
                }
            } // MAX_THREADS_PER_MULTIPROCESSOR
            75 => (architecture / 10) as c_int, // COMPUTE_CAPABILITY_MAJOR
            76 => (architecture % 10) as c_int, // COMPUTE_CAPABILITY_MINOR
            78 => 1,           // STREAM_PRIORITIES_SUPPORTED
            81 => shared_kib << 10, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            97 => (shared_kib - 1) << 10, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            106 => {
                if architecture == 89 {
                    24
                } else {
                    32
                }
            } // MAX_BLOCKS_PER_MULTIPROCESSOR
            111 => 1 << 10,    // RESERVED_SHARED_MEMORY_PER_BLOCK
            115 => 0,          // MEMORY_POOLS_SUPPORTED
            _ => return None,
        })
    }

    /// Returns the largest amount of dynamic shared memory that a kernel may request, in bytes.
    pub(super) fn shared_limit(&self) -> c_int {
        const OPTIN: c_int = 97;
        self.attribute(OPTIN, 0).unwrap_or(0)
    }
}

api! {
    fn cuInit(flags: c_uint) |sim| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if sim.config.devices == 0 {
            return Err(Code::NO_DEVICE);
        }
        sim.initialized = true;
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<c_int>) |_sim| { version.set(VERSION) }

    fn cuDeviceGetCount(count: Out<c_int>) |sim| {
        sim.ready()?;
        // There are at most 16 devices, so the cast is exact.
        count.set(sim.config.devices as c_int)
    }

    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) |sim| {
        sim.checked_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, size: c_int, device: c_int) |sim| {
        sim.checked_device(device)?;
        // All cards of one kind have the same name.
        put_text(name, usize::try_from(size).map_err(|_| Code::INVALID_VALUE)?, sim.device_name())
    }

    fn cuDeviceGetPCIBusId(id: *mut c_char, size: c_int, device: c_int) |sim| {
        let index = sim.checked_device(device)?;
        let text = format!("0000:{:02X}:00.0", index + 1);
        put_text(id, usize::try_from(size).map_err(|_| Code::INVALID_VALUE)?, &text)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) |sim| {
        let index = sim.checked_device(device)?;
        let mut bytes = *b"cuda-sim-device\0";
        bytes[15] = index as u8;
        uuid.set(bytes)
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) |sim| {
        let index = sim.checked_device(device)?;
        let mut bytes = *b"cuda-sim-device\0";
        bytes[15] = index as u8;
        uuid.set(bytes)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) |sim| {
        let index = sim.checked_device(device)?;
        match sim.attribute(attribute, index) {
            Some(found) => value.set(found),
            None => {
                sim.find(format!("cuDeviceGetAttribute: attribute {attribute} is not simulated"));
                Err(Code::INVALID_VALUE)
            }
        }
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) |sim| {
        let index = sim.checked_device(device)?;
        bytes.set(sim.devices[index].space.capacity())
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) |sim| {
        sim.checked_device(device)?;
        major.set((sim.config.architecture / 10) as c_int)?;
        minor.set((sim.config.architecture % 10) as c_int)
    }

    fn cuGetErrorName(code: c_int, name: Out<*const c_char>) |_sim| {
        let found = Code(code).name().ok_or(Code::INVALID_VALUE);
        name.set_if_wanted(found.map_or(std::ptr::null(), |name| name.as_ptr()));
        found.map(|_| ())
    }

    fn cuGetErrorString(code: c_int, text: Out<*const c_char>) |_sim| {
        let found = Code(code).description().ok_or(Code::INVALID_VALUE);
        text.set_if_wanted(found.map_or(std::ptr::null(), |text| text.as_ptr()));
        found.map(|_| ())
    }
}
