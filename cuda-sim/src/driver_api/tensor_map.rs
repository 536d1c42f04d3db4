//! Tensor maps: the data that a tensor copy needs, in 128 opaque bytes that the emulated kernels
//! read.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{In, Out, api};
use crate::code::Code;
use crate::sim::Sim;

/// The layout of a tensor map, the same as in `emu/tensor_map.h`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct TensorMap {
    magic: u32,
    rank: u8,
    element_bytes: u8,
    swizzle: u8,
    padding: u8,
    address: u64,
    strides: [u64; MAX_RANK],
    dims: [u32; MAX_RANK],
    boxes: [u16; MAX_RANK],
    unused: [u8; 42],
}

const MAX_RANK: usize = 5;
const MAGIC: u32 = 0x7061_6d74;
const _: () = assert!(size_of::<TensorMap>() == 128);

/// Bytes per element, indexed by CUtensorMapDataType.
const ELEMENT_BYTES: [u8; 10] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2];
/// Spans in bytes, indexed by CUtensorMapSwizzle.
const SWIZZLES: [u8; 4] = [0, 32, 64, 128];

struct Request<'a> {
    data_type: c_int,
    rank: c_uint,
    address: u64,
    dims: &'a In<u64>,
    strides: &'a In<u64>,
    boxes: &'a In<c_uint>,
    element_strides: &'a In<c_uint>,
    interleave: c_int,
    swizzle: c_int,
    promotion: c_int,
    fill: c_int,
}

/// Checks the documented constraints and encodes the map. The error says in words what is wrong.
fn encode(wanted: &Request) -> Result<TensorMap, String> {
    let rank = wanted.rank as usize;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(format!("rank {rank}: 1 to 5"));
    }
    let element_bytes = *ELEMENT_BYTES
        .get(wanted.data_type as usize)
        .ok_or_else(|| format!("data type {}", wanted.data_type))?;
    let swizzle = *SWIZZLES
        .get(wanted.swizzle as usize)
        .ok_or_else(|| format!("swizzle {}", wanted.swizzle))?;
    if wanted.interleave != 0 || wanted.fill != 0 {
        return Err("interleaved layouts and a fill of NaN are not simulated".to_owned());
    }
    if !(0..=3).contains(&wanted.promotion) {
        return Err(format!("L2 promotion {}", wanted.promotion));
    }
    if wanted.address == 0 || !wanted.address.is_multiple_of(16) {
        return Err(format!("address {:#x}: not aligned to 16", wanted.address));
    }
    let mut map = TensorMap {
        magic: MAGIC,
        rank: rank as u8,
        element_bytes,
        swizzle,
        padding: 0,
        address: wanted.address,
        strides: [0; MAX_RANK],
        dims: [1; MAX_RANK],
        boxes: [1; MAX_RANK],
        unused: [0; 42],
    };
    let missing = |_| "a null array".to_owned();
    map.strides[0] = u64::from(element_bytes);
    for d in 0..rank {
        let dim = wanted.dims.at(d).map_err(missing)?;
        map.dims[d] = u32::try_from(dim)
            .ok()
            .filter(|dim| *dim > 0)
            .ok_or_else(|| format!("dimension {d} of {dim} elements: 1 to 2^32 - 1"))?;
        let size = wanted.boxes.at(d).map_err(missing)?;
        if !(1..=256).contains(&size) {
            return Err(format!("box of {size} in dimension {d}: 1 to 256"));
        }
        map.boxes[d] = size as u16;
        if wanted.element_strides.at(d).map_err(missing)? != 1 {
            return Err(format!(
                "an element stride other than 1 in dimension {d} is not simulated"
            ));
        }
        if d > 0 {
            let stride = wanted.strides.at(d - 1).map_err(missing)?;
            if !stride.is_multiple_of(16) || stride >= 1 << 40 || stride == 0 {
                return Err(format!(
                    "stride of {stride} bytes in dimension {d}: a multiple of 16 below 2^40"
                ));
            }
            map.strides[d] = stride;
        }
    }
    let row = u32::from(map.boxes[0]) * u32::from(element_bytes);
    if !row.is_multiple_of(16) {
        return Err(format!(
            "a box whose rows have {row} bytes: a multiple of 16"
        ));
    }
    if swizzle != 0 && row > u32::from(swizzle) {
        return Err(format!(
            "a box whose rows have {row} bytes, more than the swizzle's {swizzle}"
        ));
    }
    if swizzle != 0 && row != u32::from(swizzle) {
        return Err(format!(
            "a box whose rows have {row} bytes, less than the swizzle's {swizzle}, is not simulated"
        ));
    }
    Ok(map)
}

fn write(sim: &mut Sim, out: &Out<TensorMap>, wanted: &Request) -> Result<(), Code> {
    sim.ready()?;
    if out.address().is_null() || !(out.address() as usize).is_multiple_of(64) {
        sim.find("cuTensorMapEncodeTiled: the tensor map's place is not aligned to 64".to_owned());
        return Err(Code::INVALID_VALUE);
    }
    match encode(wanted) {
        Ok(map) => out.set(map),
        Err(text) => {
            sim.find(format!("cuTensorMapEncodeTiled: {text}"));
            Err(Code::INVALID_VALUE)
        }
    }
}

api! {
    #[allow(clippy::too_many_arguments)] // CUDA's signature
    fn cuTensorMapEncodeTiled(
        map: Out<TensorMap>,
        data_type: c_int,
        rank: c_uint,
        address: *mut c_void,
        dims: In<u64>,
        strides: In<u64>,
        boxes: In<c_uint>,
        element_strides: In<c_uint>,
        interleave: c_int,
        swizzle: c_int,
        promotion: c_int,
        fill: c_int,
    ) |sim| {
        let wanted = Request {
            data_type,
            rank,
            address: address as u64,
            dims: &dims,
            strides: &strides,
            boxes: &boxes,
            element_strides: &element_strides,
            interleave,
            swizzle,
            promotion,
            fill,
        };
        write(sim, &map, &wanted)
    }
}
