//! Tensors in a safetensors file.
//!
//! Files are read by their header first, so a file that does not fit costs no more memory than its header.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use safetensors::{
    Dtype, View,
    tensor::{Metadata, TensorInfo},
};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use touchstone_reference::{DType, Tensor, Tensors};

/// Longest header that is read: room for some hundred thousand tensors.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A safetensors file, of which the header has been read and found consistent.
#[derive(Debug)]
pub struct Archive<R> {
    name: String,
    source: R,
    data: u64,
    metadata: Metadata,
}

impl Archive<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        Self::new(&name, file)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the header from the start of `source`; `name` stands for it in errors.
    ///
    /// # Errors
    /// If the header is cut off, too long, no JSON, names a tensor twice, gives one a size that does not fit
    /// its shape, lets tensors overlap or leave gaps, or does not fit the length of the file.
    pub fn new(name: &str, mut source: R) -> anyhow::Result<Self> {
        let at = || format!("{name}: not a safetensors file");
        let length = source.seek(SeekFrom::End(0)).with_context(at)?;
        source.rewind().with_context(at)?;
        let mut size = [0; 8];
        source.read_exact(&mut size).context("shorter than 8 bytes").with_context(at)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER_BYTES {
            bail!("{}: its header would have {size} bytes, more than {MAX_HEADER_BYTES}", at());
        }
        if size + 8 > length {
            bail!("{}: its header would have {size} bytes, the file has {length}", at());
        }
        let mut header = vec![0; size as usize];
        source.read_exact(&mut header).with_context(at)?;
        refuse_duplicates(&header).context("its header").with_context(at)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).context("its header").with_context(at)?;
        let needed = metadata.data_len() as u64;
        let data = 8 + size;
        ensure!(
            length - data == needed,
            "{name}: its tensors take {needed} bytes, the file holds {} (cut off, or something was appended)",
            length - data
        );
        Ok(Self { name: name.to_string(), source, data, metadata })
    }

    /// Names of the tensors, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The text under a key of the file's metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Reads a tensor, if it has this type and shape.
    ///
    /// # Errors
    /// If it is missing, of another type or shape, or cannot be read.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> anyhow::Result<Tensor> {
        let at = format!("{}: tensor '{name}'", self.name);
        let info = self.metadata.info(name).with_context(|| format!("{at} is missing"))?;
        ensure!(
            info.dtype == to_file(dtype) && info.shape == shape,
            "{at} is {} {:?}, the case has {} {shape:?}",
            from_file(info.dtype).map_or_else(|| info.dtype.to_string(), |d| d.name().to_string()),
            info.shape,
            dtype.name()
        );
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        self.source
            .seek(SeekFrom::Start(self.data + begin as u64))
            .and_then(|_| self.source.read_exact(&mut bytes))
            .context(at)?;
        Ok(Tensor::from_bytes(dtype, shape, &bytes))
    }
}

/// JSON lets a name come twice and readers keep one of the two; here it is an error.
fn refuse_duplicates(header: &[u8]) -> Result<(), serde_json::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = BTreeSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.contains(&name) {
                    let problem = format!("tensor '{name}' is there twice");
                    return Err(serde::de::Error::custom(problem));
                }
                seen.insert(name);
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_slice(header).deserialize_map(Names)
}

/// The type's name in safetensors.
const fn to_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        DType::U64 => Dtype::U64,
    }
}

/// Our type of a safetensors type, if we have it.
fn from_file(dtype: Dtype) -> Option<DType> {
    use DType::{Bf16, F16, F32, F64, I8, I32, I64, U8, U32, U64};
    [F64, F32, F16, Bf16, I8, U8, I32, U32, I64, U64].into_iter().find(|&d| to_file(d) == dtype)
}

/// A tensor as the safetensors crate wants to see it.
pub(super) struct Entry<'a>(pub Cow<'a, Tensor>);

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        to_file(self.0.dtype())
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.bytes()
    }
}

/// Writes tensors and one note to a new file, which appears under its name only when it is whole.
pub(super) fn write(
    path: &Path,
    entries: Vec<(String, Entry<'_>)>,
    note: Option<(&str, String)>,
) -> anyhow::Result<()> {
    let at = || format!("cannot write {}", path.display());
    if path.exists() {
        bail!("{}: it exists, and is not overwritten", at());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let metadata = note.map(|(key, text)| HashMap::from([(key.to_string(), text)]));
    let written = safetensors::serialize_to_file(entries, metadata, Path::new(&partial))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(std::fs::rename(&partial, path)?));
    if written.is_err() {
        // Nothing more can be done about it when even this fails.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(at)
}

/// Writes tensors under their names to a new file: answers, say.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn write_tensors(path: &Path, tensors: &Tensors) -> anyhow::Result<()> {
    let entry = |(name, t): (&str, _)| (name.to_string(), Entry(Cow::Borrowed(t)));
    write(path, tensors.iter().map(entry).collect(), None)
}
