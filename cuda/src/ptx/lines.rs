//! From which source lines the committed PTX comes: `cuda/lines/*.lines`, which `cuda/compile.py` writes beside the
//! PTX. The head of `cuda/line_table.py` tells their format.

use std::fmt;

use include_dir::{Dir, include_dir};

static LINES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/lines");

/// A line of a file in `cuda/kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// Name of the file.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// Of a header's line, the kernel file and the line of it where the header's code was inlined.
    pub inlined_at: Option<(&'static str, u32)>,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.inlined_at {
            Some((file, line)) => write!(f, " inlined at {file}:{line}"),
            None => Ok(()),
        }
    }
}

/// The source of a line of a module's committed PTX, from 1; `None` for what comes before a kernel's code, and where
/// there is no table. A twin has the lines of the file it is made of.
pub fn source(module: &str, ptx_line: u32) -> Option<SourceLine> {
    let stem = module.split('.').next()?;
    let text = LINES.get_file(format!("{stem}.lines"))?.contents_utf8()?;
    let mut lines = text.lines();
    let files: Vec<&'static str> = lines.next()?.split(' ').collect();
    let places = lines.next()?;
    let at = place_of(lines.next()?, ptx_line)?;
    place(&files, places.split(' ').nth(at.checked_sub(1)?)?)
}

/// How many lines of PTX a module's table is about: of a text with another number of lines it says nothing.
pub fn told(module: &str) -> Option<usize> {
    let stem = module.split('.').next()?;
    let runs = LINES.get_file(format!("{stem}.lines"))?.contents_utf8()?.lines().nth(2)?;
    runs.split(' ').map(|run| length(run.split(',').next()?)).sum()
}

/// Lines of a run: nothing is one.
fn length(count: &str) -> Option<usize> {
    if count.is_empty() { Some(1) } else { count.parse().ok() }
}

/// The place of a line: the runs before it are passed over.
fn place_of(runs: &str, ptx_line: u32) -> Option<usize> {
    let (mut passed, mut places) = (0, 0);
    for run in runs.split(' ') {
        let (count, known) = match run.split_once(',') {
            Some((count, place)) => (count, Some(place.parse().ok()?)),
            None => (run, None),
        };
        places += usize::from(known.is_none());
        passed += length(count)?;
        if ptx_line as usize <= passed {
            return Some(known.unwrap_or(places));
        }
    }
    None
}

/// `57`, or `2:19@57`.
fn place(files: &[&'static str], text: &str) -> Option<SourceLine> {
    let (text, inlined_at) = match text.split_once('@') {
        Some((text, line)) => (text, Some((*files.first()?, line.parse().ok()?))),
        None => (text, None),
    };
    let (file, line) = text.split_once(':').unwrap_or(("0", text));
    let file = files.get(file.parse::<usize>().ok()?)?;
    Some(SourceLine { file, line: line.parse().ok()?, inlined_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;

    #[test]
    fn runs_name_places_as_they_come_and_again() {
        let runs = "2,0 3 ,1 1 2,1";
        let places: Vec<_> = (1..=10).map(|line| place_of(runs, line)).collect();
        let [none, one, two] = [Some(0), Some(1), Some(2)];
        assert_eq!(places, [none, none, one, one, one, one, two, one, one, None]);
    }

    #[test]
    fn places_are_lines_of_the_kernel_or_of_headers_inlined_there() {
        let files = ["k.cu", "a.cuh", "b.cuh"];
        assert_eq!(place(&files, "57").unwrap().to_string(), "k.cu:57");
        assert_eq!(place(&files, "2:19@57").unwrap().to_string(), "b.cuh:19 inlined at k.cu:57");
        assert_eq!(place(&files, "3:19"), None);
    }

    /// Every line behind the first statement of a kernel has a source, of a file that is there and long enough.
    #[test]
    fn every_statement_has_a_source_line() {
        let kernels = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let lengths: std::collections::HashMap<_, _> = std::fs::read_dir(kernels)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                (path.file_name().unwrap().to_str().unwrap().to_string(), lines as u32)
            })
            .collect();
        for module in ptx::modules() {
            let text = ptx::module(module).unwrap();
            assert_eq!(told(module), Some(text.lines().count()), "{module}: run cuda/compile.py");
            let is_statement =
                |line: &str| line.starts_with("st.global") || line.starts_with("ld.global");
            for (line, _) in
                (1..).zip(text.lines()).filter(|(_, line)| is_statement(line)).step_by(7)
            {
                let source = source(module, line);
                let source =
                    source.unwrap_or_else(|| panic!("{module}, PTX line {line}: no source"));
                assert!(source.line <= lengths[source.file], "{module}, PTX line {line}: {source}");
            }
        }
    }
}
