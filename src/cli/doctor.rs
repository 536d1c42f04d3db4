//! `seqstream doctor`: shows this machine, and what this build supports on it.

use std::fmt;

use serde::{Serialize, Serializer};

use super::args::DoctorArgs;
use super::remedy::words;
use super::{Console, Failure, machine, model, options};
use seqstream::backend::{self, cuda};
use seqstream::bytes::Bytes;
use seqstream::gpu::{cublaslt, driver};
use seqstream::hub::Hub;
use seqstream::untrusted::shown;

/// Runs `seqstream doctor`.
pub fn run(args: &DoctorArgs, console: &Console) -> Result<(), Failure> {
    console.report(&Doctor::examine(&model::hub(console)), args.json)
}

/// This machine, and what this build supports on it. What is missing has its reason, which only the
/// text shows.
#[derive(Serialize)]
struct Doctor {
    seqstream: &'static str,
    target: String,
    devices: [Processor; 1],
    #[serde(serialize_with = "is_ok")]
    cuda: Result<(), String>,
    cuda_kernels: Kernels,
    #[serde(serialize_with = "if_ok")]
    cublaslt: Result<Library, String>,
    #[serde(serialize_with = "devices")]
    cuda_devices: Result<Driver, String>,
    memory: Option<u64>,
    hub: Models,
}

/// Where models are that are given by their names.
#[derive(Serialize)]
struct Models {
    cache: Option<String>,
    downloads: bool,
    /// What forbids downloads, if anything does.
    #[serde(skip)]
    forbidden: Option<&'static str>,
}

#[derive(Serialize)]
struct Processor {
    device: &'static str,
    name: Option<String>,
    cores: usize,
    simd: &'static str,
    dtypes: [&'static str; 1],
    #[serde(serialize_with = "map")]
    caches: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Kernels {
    nvcc: Option<&'static str>,
    architectures: &'static [&'static str],
}

#[derive(Serialize)]
struct Library {
    library: &'static str,
    version: String,
}

/// The CUDA driver and its devices.
struct Driver {
    library: String,
    version: String,
    devices: Vec<CudaDevice>,
}

#[derive(Serialize)]
struct CudaDevice {
    device: u32,
    name: String,
    capability: (u32, u32),
    multiprocessors: u32,
    memory: u64,
}

fn is_ok<T, S: Serializer>(found: &Result<T, String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(found.is_ok())
}

fn if_ok<T: Serialize, S: Serializer>(found: &Result<T, String>, to: S) -> Result<S::Ok, S::Error> {
    found.as_ref().ok().serialize(to)
}

fn devices<S: Serializer>(found: &Result<Driver, String>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(found.iter().flat_map(|driver| &driver.devices))
}

fn map<S: Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl Doctor {
    fn examine(hub: &Hub) -> Self {
        Self {
            seqstream: env!("CARGO_PKG_VERSION"),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            devices: [Processor {
                device: "cpu",
                name: machine::processor(),
                cores: options::cores(),
                simd: backend::simd_name(),
                dtypes: ["f32"],
                caches: machine::caches(),
            }],
            cuda: cuda::require().map(drop).map_err(|e| e.to_string()),
            cuda_kernels: Kernels {
                nvcc: cuda::kernels::NVCC,
                architectures: cuda::kernels::ARCHITECTURES,
            },
            cublaslt: cublaslt::cublaslt()
                .map(|(library, version)| Library { library, version })
                .map_err(|e| e.to_string()),
            cuda_devices: cuda::devices()
                .map(|(library, devices)| Driver::new(library, devices))
                .map_err(|e| e.to_string()),
            memory: machine::total_memory(),
            hub: Models {
                cache: hub
                    .cache
                    .as_ref()
                    .map(|c| shown::path(c.path()).to_string()),
                downloads: hub.may_download(),
                forbidden: hub.offline,
            },
        }
    }
}

impl Driver {
    fn new(library: String, devices: Vec<driver::DeviceInfo>) -> Self {
        let version = driver::driver_version().map_or_else(
            |e| e.to_string(),
            |(major, minor)| format!("{major}.{minor}"),
        );
        let one = |d: driver::DeviceInfo| CudaDevice {
            device: d.ordinal,
            name: d.name,
            capability: d.capability,
            multiprocessors: d.multiprocessors,
            memory: d.memory,
        };
        Self {
            library,
            version,
            devices: devices.into_iter().map(one).collect(),
        }
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<14} {value}");
        line("seqstream", &format!("{}, {}", self.seqstream, self.target))?;
        for processor in &self.devices {
            let cores = processor.cores;
            line("processor", &processor.name.as_deref().unwrap_or("unknown"))?;
            line(
                "cores",
                &format!("{cores} usable, so --threads is {cores} unless given"),
            )?;
            line("SIMD", &processor.simd)?;
            let caches = processor.caches.iter();
            let caches: Vec<String> = caches
                .map(|(name, size)| format!("{name} {size}"))
                .collect();
            match caches.as_slice() {
                [] => line("caches", &"unknown")?,
                some => line("caches", &some.join(", "))?,
            }
        }
        match self.memory {
            Some(memory) => line("memory", &Bytes(memory))?,
            None => line("memory", &"unknown")?,
        }
        line(
            "--device cpu",
            &"yes, in f32, from weights stored in f32, f16 or bf16",
        )?;
        match &self.cuda {
            Ok(()) => line("--device cuda", &"yes, in f16, bf16 and f32")?,
            Err(reason) => line("--device cuda", &format!("no: {reason}"))?,
        }
        line("CUDA kernels", &self.cuda_kernels)?;
        match &self.cuda_devices {
            Ok(driver) => line("CUDA driver", driver)?,
            Err(reason) => line("CUDA driver", reason)?,
        }
        match &self.cublaslt {
            Ok(found) => line("cuBLASLt", &format!("{}, {}", found.version, found.library))?,
            Err(reason) => line("cuBLASLt", reason)?,
        }
        match &self.hub.cache {
            Some(cache) => line("Hub cache", cache)?,
            None => line("Hub cache", &"none: the home directory is not known")?,
        }
        match (self.hub.downloads, self.hub.forbidden) {
            (true, _) => line("downloads", &"yes, of models that the cache does not have")?,
            (false, Some(by)) => line("downloads", &format!("no: {by} forbids them"))?,
            (false, None) => line("downloads", &"no: this build lacks the feature `hub`")?,
        }
        line("models", &"ESM-2 of any size, DNABERT-S, DNABERT-2")?;
        line(
            "weights",
            &"safetensors and torch .bin (one file or sharded), fair-esm .pt",
        )?;
        line("sequences", &"FASTA, FASTQ; plain, gzip, bzip2, xz, zstd")
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nvcc {
            Some(nvcc) => write!(
                f,
                "{}, for {} (nvcc {nvcc})",
                cuda::kernels::FATBINS.len(),
                self.architectures.join(", ")
            ),
            None => write!(f, "none: {}", words(&cuda::Unavailable::NoKernels.remedy())),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, CUDA {}", self.library, self.version)?;
        for d in &self.devices {
            let (major, minor) = d.capability;
            write!(
                f,
                "; {}: {}, sm_{major}{minor}, {}",
                d.device,
                d.name,
                Bytes(d.memory)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor() -> Doctor {
        Doctor {
            cuda: Ok(()),
            cublaslt: Ok(Library {
                library: "/usr/lib/libcublasLt.so.13",
                version: "13.1.0".into(),
            }),
            cuda_devices: Ok(Driver {
                library: "libcuda.so.1".into(),
                version: "13.0".into(),
                devices: vec![CudaDevice {
                    device: 0,
                    name: "NVIDIA H200".into(),
                    capability: (9, 0),
                    multiprocessors: 132,
                    memory: 150_754_820_096,
                }],
            }),
            ..Doctor::examine(&Hub::from_environment())
        }
    }

    #[test]
    fn what_there_is_stands_in_the_text_and_in_the_json() {
        let text = doctor().to_string();
        for line in [
            "--device cuda  yes, in f16, bf16 and f32\n",
            "CUDA driver    libcuda.so.1, CUDA 13.0; 0: NVIDIA H200, sm_90, 140.4 GiB\n",
            "cuBLASLt       13.1.0, /usr/lib/libcublasLt.so.13\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let json = serde_json::to_value(doctor()).unwrap();
        assert_eq!(json["cuda"], true);
        assert_eq!(
            json["cublaslt"],
            serde_json::json!({"library": "/usr/lib/libcublasLt.so.13", "version": "13.1.0"})
        );
        assert_eq!(
            json["cuda_devices"],
            serde_json::json!([{
                "device": 0,
                "name": "NVIDIA H200",
                "capability": [9, 0],
                "multiprocessors": 132,
                "memory": 150_754_820_096_u64,
            }])
        );
    }

    #[test]
    fn what_is_missing_has_its_reason_in_the_text_alone() {
        let doctor = Doctor {
            cuda: Err("reason 1".into()),
            cublaslt: Err("reason 2".into()),
            cuda_devices: Err("reason 3".into()),
            ..doctor()
        };
        let text = doctor.to_string();
        for line in [
            "--device cuda  no: reason 1\n",
            "cuBLASLt       reason 2\n",
            "CUDA driver    reason 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let json = serde_json::to_value(doctor).unwrap();
        assert_eq!(json["cuda"], false);
        assert!(json["cublaslt"].is_null());
        assert_eq!(json["cuda_devices"], serde_json::json!([]));
    }
}
