//! The records themselves, inside the page.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use touchstone_bench::Record;

/// All records as a link that holds its own file: JSON Lines, compressed by gzip.
///
/// # Errors
/// If a record cannot be serialized.
pub fn link<'r>(records: impl Iterator<Item = &'r Record>) -> anyhow::Result<String> {
    let mut file = GzEncoder::new(Vec::new(), Compression::best());
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    Ok(format!("data:application/gzip;base64,{}", STANDARD.encode(file.finish()?)))
}
