//! Recording what a GPU computes, and reading it back.
//!
//! A file is, compressed by gzip, one line of JSON (family, device, driver, instructions and their result widths, count and width of
//! inputs) and then bytes: the inputs, and each instruction's results, little-endian at their width.

use std::{
    io::{Read, Write},
    path::Path,
};

use cudarc::{
    driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg},
    nvrtc::Ptx,
};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use serde_json::{Value, json};

use super::{family::Family, warps::Group};

/// A parsed file.
pub struct Recorded {
    /// Triples of operands, of a family of elementwise instructions.
    pub inputs: Vec<[u64; 3]>,
    /// Input words, of a group of warp instructions.
    pub raw: Vec<u32>,
    entries: Vec<(String, usize, Vec<u8>)>,
}

impl Recorded {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("no header line")?;
        let header: Value = serde_json::from_slice(&bytes[..end]).map_err(|e| e.to_string())?;
        let number = |value: &Value| value.as_u64().map(|n| n as usize).ok_or("not a number");
        let (count, width) = (number(&header["inputs"])?, number(&header["width"])?);
        let mut rest = &bytes[end + 1..];
        let mut take = |length: usize| -> Result<&[u8], String> {
            let (head, tail) = rest.split_at_checked(length).ok_or("the file is cut off")?;
            rest = tail;
            Ok(head)
        };
        let input = take(count * width)?;
        let words = widen(input, width);
        let mut recorded = Self { inputs: vec![], raw: vec![], entries: vec![] };
        if header["family"].is_string() {
            recorded.inputs = words.chunks_exact(3).map(|w| [w[0], w[1], w[2]]).collect();
        } else {
            recorded.raw = words.iter().map(|word| *word as u32).collect();
        }
        for entry in header["instructions"].as_array().ok_or("no instructions")? {
            let name = entry[0].as_str().ok_or("no name")?.to_owned();
            let (width, count) = (number(&entry[1])?, number(&entry[2])?);
            recorded.entries.push((name, width, take(width * count)?.to_vec()));
        }
        Ok(recorded)
    }

    fn entry(&self, name: &str) -> Result<&(String, usize, Vec<u8>), String> {
        let found = self.entries.iter().find(|entry| entry.0 == name);
        found.ok_or_else(|| format!("'{name}' is not recorded: record the family again"))
    }

    /// Results of an elementwise instruction.
    pub fn results(&self, name: &str, width: usize) -> Result<Vec<u64>, String> {
        let entry = self.entry(name)?;
        if entry.1 != width {
            return Err(format!("'{name}' is recorded with {} bytes, not {width}", entry.1));
        }
        let results = widen(&entry.2, width);
        if results.len() != self.inputs.len() {
            return Err(format!("'{name}': {} results of {}", results.len(), self.inputs.len()));
        }
        Ok(results)
    }

    /// Result words of a warp instruction.
    pub fn words(&self, name: &str) -> Result<Vec<u32>, String> {
        Ok(widen(&self.entry(name)?.2, 4).into_iter().map(|word| word as u32).collect())
    }
}

/// The file of these bytes.
fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes bytes")
}

/// What a file holds.
pub fn decompress(file: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn widen(bytes: &[u8], width: usize) -> Vec<u64> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks_exact(width).map(word).collect()
}

fn narrow(words: impl IntoIterator<Item = u64>, width: usize) -> Vec<u8> {
    words.into_iter().flat_map(|word| word.to_le_bytes()[..width].to_vec()).collect()
}

/// Runs all families on device 0 and writes a file of each to `directory`.
pub fn record(directory: &Path, families: &[Family], groups: &[Box<dyn Group>]) {
    // SAFETY: only looks for the driver's library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        eprintln!("there is no CUDA driver: nothing is recorded");
        std::process::exit(1);
    }
    std::fs::create_dir_all(directory).expect("the directory can be made");
    let device = Device::open();
    let mut failures = 0;
    let mut keep = |name: &str, result: Result<Vec<u8>, String>| match result {
        Ok(bytes) => {
            let path = directory.join(format!("{name}.bin.gz"));
            std::fs::write(&path, compress(&bytes)).expect("the file can be written");
            println!("{name}: {} bytes", bytes.len());
        }
        Err(error) => {
            failures += 1;
            println!("{name}: FAILED: {error}");
        }
    };
    for family in families {
        keep(family.name, device.family(family));
    }
    for group in groups {
        keep(group.name(), device.group(group.as_ref()));
    }
    println!("{failures} families failed");
}

/// A device with what is written about it.
pub struct Device {
    pub stream: std::sync::Arc<CudaStream>,
    name: String,
    driver: i32,
}

impl Device {
    fn open() -> Self {
        let context = CudaContext::new(0).expect("device 0 opens");
        let name = context.name().expect("a device has a name");
        let mut driver = 0;
        // SAFETY: writes one int.
        unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut driver) }
            .result()
            .expect("a version");
        Self { stream: context.default_stream(), name, driver }
    }

    fn family(&self, family: &Family) -> Result<Vec<u8>, String> {
        let (count, instructions) = (family.inputs.len(), family.instructions.len());
        let flat: Vec<u64> = family.inputs.iter().flatten().copied().collect();
        let text = |error: cudarc::driver::DriverError| format!("{error:?}");
        let module =
            self.stream.context().load_module(Ptx::from_src(family.ptx())).map_err(text)?;
        let function = module.load_function(family.name).map_err(text)?;
        let input = self.stream.clone_htod(&flat).map_err(text)?;
        let mut output = self.stream.alloc_zeros::<u64>(count * instructions).map_err(text)?;
        let size = count as u32;
        let config = LaunchConfig {
            grid_dim: (size.div_ceil(64), 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel reads `count` triples and writes `count` words of each instruction.
        unsafe {
            self.stream
                .launch_builder(&function)
                .arg(&input)
                .arg(&mut output)
                .arg(&size)
                .launch(config)
        }
        .map_err(text)?;
        let results = self.stream.clone_dtoh(&output).map_err(text)?;
        Ok(family_file(family, &self.label(), &results))
    }

    fn label(&self) -> Value {
        json!({ "name": self.name, "cuda": self.driver })
    }

    fn group(&self, group: &dyn Group) -> Result<Vec<u8>, String> {
        let results = group.run(self)?;
        let entries: Vec<Value> = group
            .names()
            .iter()
            .zip(&results)
            .map(|(name, words)| json!([name, 4, words.len()]))
            .collect();
        let inputs = group.inputs();
        let mut bytes = header("warps", group.name(), &self.label(), (inputs.len(), 4), &entries);
        bytes.extend(narrow(inputs.iter().map(|word| u64::from(*word)), 4));
        for words in results {
            bytes.extend(narrow(words.into_iter().map(u64::from), 4));
        }
        Ok(bytes)
    }
}

fn header(
    kind: &str,
    name: &str,
    device: &Value,
    (inputs, width): (usize, usize),
    entries: &[Value],
) -> Vec<u8> {
    let header = json!({
        kind: name, "device": device, "inputs": inputs, "width": width, "instructions": entries,
    });
    format!("{header}\n").into_bytes()
}

/// The file of a family of which a device gave `results`: one word of each input, instruction after instruction.
pub fn family_file(family: &Family, device: &Value, results: &[u64]) -> Vec<u8> {
    let count = family.inputs.len();
    let flat: Vec<u64> = family.inputs.iter().flatten().copied().collect();
    let width = if flat.iter().all(|word| *word <= 0xffff_ffff) { 4 } else { 8 };
    let entries: Vec<Value> =
        family.instructions.iter().map(|i| json!([i.name(), i.bytes(), count])).collect();
    let mut bytes = header("family", family.name, device, (flat.len(), width), &entries);
    bytes.extend(narrow(flat, width));
    for (instruction, words) in family.instructions.iter().zip(results.chunks(count)) {
        bytes.extend(narrow(words.iter().copied(), instruction.bytes()));
    }
    bytes
}
