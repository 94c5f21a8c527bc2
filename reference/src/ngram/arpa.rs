//! Models as ARPA text.
//!
//! ```text
//! \data\
//! ngram 1=5
//! ngram 2=2
//!
//! \1-grams:
//! -99  <s>  -0.30103
//! -0.5  a  -0.2
//! ...
//! \2-grams:
//! -0.2  <s> a
//! ...
//! \end\
//! ```
//!
//! Fields are log10 probability, the words, and the log10 back-off weight (left out: 0), separated by
//! white space. Numbers are written with as many digits as bring the same f64 back.

use std::{
    collections::HashMap,
    io::{self, BufRead, Write},
};

use super::{
    bos, eos, ids,
    model::{Entry, Model, Table},
    unk,
};

/// log10 probability of the unknown word in a file that has none: KenLM's choice.
const UNKNOWN_LOG10_PROB: f64 = -100.0;

/// Why a text is no ARPA file.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ArpaError {
    /// Line of the text, from 1; one past the last when the text ends too early.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Lines of the text that are not blank, numbered and trimmed.
struct Lines<R> {
    reader: R,
    line: usize,
    text: String,
}

impl<R: BufRead> Lines<R> {
    fn error(&self, problem: impl Into<String>) -> ArpaError {
        ArpaError { line: self.line, problem: problem.into() }
    }

    /// Goes to the next line that is not blank. `wanted` is what should come, for the message.
    fn advance(&mut self, wanted: &str) -> Result<&str, ArpaError> {
        loop {
            self.line += 1;
            self.text.clear();
            let read = self.reader.read_line(&mut self.text);
            if read.map_err(|e| self.error(format!("cannot be read: {e}")))? == 0 {
                return Err(self.error(format!("the text ends where {wanted} should come")));
            }
            if !self.text.trim().is_empty() {
                return Ok(self.text.trim());
            }
        }
    }
}

/// Reads a model and its words, `words[id]`. Words get ids in the order of the file's unigrams, which must
/// have `<s>` and `</s>`; without `<unk>` the unknown word gets log10 probability −100. Lines before
/// `\data\` and after `\end\` are skipped.
///
/// # Errors
/// The line and what is wrong there: a count that does not match its section, a section missing, out of
/// order or cut off, a word without unigram, an n-gram listed twice, a number that is none, a positive or
/// NaN log10 probability.
pub fn read(reader: impl BufRead) -> Result<(Model, Vec<String>), ArpaError> {
    let mut lines = Lines { reader, line: 0, text: String::new() };
    while lines.advance("\\data\\")? != "\\data\\" {}
    let sizes = header(&mut lines)?;
    let first = unigrams(&mut lines, sizes[0])?;
    let vocab = first.words.len();
    let id_of: HashMap<&str, u32> = (0..)
        .zip(&first.words)
        .map(|(id, word)| (word.as_str(), id))
        .chain([("<unk>", unk(vocab)), ("</s>", eos(vocab)), ("<s>", bos(vocab))])
        .collect();
    let mut tables = vec![first.table];
    for (order, &size) in (2..=sizes.len()).zip(&sizes[1..]) {
        tables.push(ngrams(&mut lines, order, order == sizes.len(), size, &id_of)?);
    }
    match lines.text.trim() {
        "\\end\\" => Ok((Model::new(vocab, tables), first.words)),
        other => Err(lines.error(format!("'{other}' where \\end\\ should come"))),
    }
}

/// The counts after `\data\`; leaves the first section's title as the current line.
fn header(lines: &mut Lines<impl BufRead>) -> Result<Vec<usize>, ArpaError> {
    let mut sizes = Vec::new();
    loop {
        let text = lines.advance("a count or \\1-grams:")?;
        let Some(count) = text.strip_prefix("ngram ") else { break };
        let parsed = count.split_once('=').and_then(|(order, size)| {
            Some((order.trim().parse::<usize>().ok()?, size.trim().parse::<usize>().ok()?))
        });
        match parsed {
            Some((order, size)) if order == sizes.len() + 1 => sizes.push(size),
            _ => {
                let wanted = format!("'ngram {}=COUNT'", sizes.len() + 1);
                return Err(lines.error(format!("'{}' is not {wanted}", lines.text.trim())));
            }
        }
    }
    if sizes.is_empty() { Err(lines.error("no 'ngram 1=COUNT' line")) } else { Ok(sizes) }
}

struct Unigrams {
    words: Vec<String>,
    table: Table,
}

/// Reads a section whose title is the current line: `row` gets each line's probability, words and back-off
/// weight. Leaves the line after the section as the current one.
fn section<R: BufRead>(
    lines: &mut Lines<R>,
    order: usize,
    is_highest: bool,
    size: usize,
    mut row: impl FnMut(&[&str], Entry) -> Result<(), String>,
) -> Result<(), ArpaError> {
    let title = format!("\\{order}-grams:");
    if lines.text.trim() != title {
        return Err(lines.error(format!("'{}' where {title} should come", lines.text.trim())));
    }
    let mut read = 0;
    loop {
        let text = lines.advance("an n-gram, a section or \\end\\")?;
        // Of words only a lone one can begin with a backslash, and a line begins with a number.
        if text.starts_with('\\') {
            break;
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let parsed =
            entry(&fields, order, is_highest).and_then(|entry| row(&fields[1..=order], entry));
        parsed.map_err(|problem| lines.error(problem))?;
        read += 1;
    }
    if read != size {
        return Err(lines.error(format!("{read} {order}-grams, but the header says {size}")));
    }
    Ok(())
}

fn entry(fields: &[&str], order: usize, is_highest: bool) -> Result<Entry, String> {
    if fields.len() != order + 1 && (is_highest || fields.len() != order + 2) {
        let and = if is_highest { "" } else { ", perhaps a back-off weight" };
        return Err(format!(
            "{} fields where a probability, {order} words{and} should be",
            fields.len()
        ));
    }
    let number = |text: &str| match text.parse::<f64>() {
        Ok(value) if !value.is_nan() && value < f64::INFINITY => Ok(value),
        _ => Err(format!("'{text}' is not a number")),
    };
    let log10_prob = number(fields[0])?;
    if log10_prob > 0.0 {
        return Err(format!("log10 probability {log10_prob} is positive"));
    }
    let log10_backoff = fields.get(order + 1).map_or(Ok(0.0), |text| number(text))?;
    Ok(Entry { log10_prob, log10_backoff })
}

fn unigrams(lines: &mut Lines<impl BufRead>, size: usize) -> Result<Unigrams, ArpaError> {
    let (mut words, mut entries, mut special) = (Vec::new(), Vec::new(), HashMap::new());
    let mut seen = std::collections::HashSet::new();
    // Of a model of order 1 the back-off weights would never be used, but files have them.
    section(lines, 1, false, size, |word, entry| {
        let word = word[0];
        if !seen.insert(word.to_string()) {
            return Err(format!("'{word}' has a second unigram"));
        }
        match word {
            "<unk>" | "<s>" | "</s>" => _ = special.insert(word.to_string(), entry),
            _ => {
                words.push(word.to_string());
                entries.push(entry);
            }
        }
        Ok(())
    })?;
    let unknown = Entry { log10_prob: UNKNOWN_LOG10_PROB, log10_backoff: 0.0 };
    entries.push(special.get("<unk>").copied().unwrap_or(unknown));
    for name in ["</s>", "<s>"] {
        let entry = special.get(name);
        entries.push(*entry.ok_or_else(|| lines.error(format!("no unigram {name} came before")))?);
    }
    let table = (0..).map(|id| vec![id]).zip(entries).collect();
    Ok(Unigrams { words, table })
}

fn ngrams(
    lines: &mut Lines<impl BufRead>,
    order: usize,
    is_highest: bool,
    size: usize,
    id_of: &HashMap<&str, u32>,
) -> Result<Table, ArpaError> {
    let mut table = Table::new();
    section(lines, order, is_highest, size, |words, entry| {
        let id = |word: &&str| {
            id_of.get(word).copied().ok_or_else(|| format!("'{word}' has no unigram"))
        };
        let ngram = words.iter().map(id).collect::<Result<Vec<u32>, String>>()?;
        match table.insert(ngram, entry) {
            None => Ok(()),
            Some(_) => Err(format!("'{}' is listed twice", words.join(" "))),
        }
    })?;
    Ok(table)
}

/// Writes a model whose word of each id is `words[id]`.
///
/// # Errors
/// The writer's; `InvalidInput` if `words` are not one for each id, all different, without white space and
/// none of them `<unk>`, `<s>` or `</s>`.
pub fn write(model: &Model, words: &[String], mut writer: impl Write) -> io::Result<()> {
    let invalid = |problem: String| Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    if words.len() != model.vocab() {
        return invalid(format!("{} words for a model of {}", words.len(), model.vocab()));
    }
    let mut seen = std::collections::HashSet::new();
    for word in words {
        let is_special = ["<unk>", "<s>", "</s>"].contains(&word.as_str());
        if word.is_empty() || word.contains(char::is_whitespace) || is_special || !seen.insert(word)
        {
            return invalid(format!("'{word}' cannot be a word of an ARPA file, or is one twice"));
        }
    }
    let mut names: Vec<&str> = words.iter().map(String::as_str).collect();
    names.extend(["<unk>", "</s>", "<s>"]);
    debug_assert_eq!(names.len(), ids(model.vocab()));
    writeln!(writer, "\\data\\")?;
    for order in 1..=model.order() {
        writeln!(writer, "ngram {order}={}", model.table(order).len())?;
    }
    for order in 1..=model.order() {
        writeln!(writer, "\n\\{order}-grams:")?;
        for (ngram, entry) in model.table(order) {
            let words: Vec<&str> = ngram.iter().map(|&id| names[id as usize]).collect();
            write!(writer, "{}\t{}", entry.log10_prob, words.join(" "))?;
            // Zero is what a missing weight means, and the highest order has none.
            if order < model.order() && entry.log10_backoff != 0.0 {
                write!(writer, "\t{}", entry.log10_backoff)?;
            }
            writeln!(writer)?;
        }
    }
    writeln!(writer, "\n\\end\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "made by hand\n\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-99 <s> -0.5\n-1\ta\t-0.25\n\
                        -0.75\t</s>\n-1.5 b\n\n\\2-grams:\n-0.125\t<s> a\n-0.5 a b\n\n\\end\\\n";

    fn complaint(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_is_read_by_hand() {
        let (model, words) = read(TEXT.as_bytes()).unwrap();
        assert_eq!(words, ["a", "b"]);
        assert_eq!((model.order(), model.vocab(), model.ngrams()), (2, 2, 7));
        let start = model.entry(&[model.bos()]).unwrap();
        assert_eq!((start.log10_prob, start.log10_backoff), (-99.0, -0.5));
        assert_eq!(model.entry(&[0, 1]).unwrap().log10_prob, -0.5);
        assert_eq!(model.entry(&[model.unk()]).unwrap().log10_prob, UNKNOWN_LOG10_PROB);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let with = |from: &str, to: &str| complaint(&TEXT.replacen(from, to, 1));
        assert_eq!(complaint(""), "line 1: the text ends where \\data\\ should come");
        assert_eq!(with("ngram 2=2", "ngram 3=2"), "line 4: 'ngram 3=2' is not 'ngram 2=COUNT'");
        assert_eq!(with("ngram 1=4", "ngram 1=x"), "line 3: 'ngram 1=x' is not 'ngram 1=COUNT'");
        assert_eq!(with("1=4", "1=5"), "line 12: 4 1-grams, but the header says 5");
        assert_eq!(
            with("2=2", "2=99999999999999"),
            "line 16: 2 2-grams, but the header says 99999999999999"
        );
        assert_eq!(
            with("\\2-grams:", "\\3-grams:"),
            "line 12: '\\3-grams:' where \\2-grams: should come"
        );
        assert_eq!(with("-0.5 a b", "-0.5 a c"), "line 14: 'c' has no unigram");
        assert_eq!(with("-0.5 a b", "-0.5 <s> a"), "line 14: '<s> a' is listed twice");
        assert_eq!(with("-1.5 b", "-1.5 a"), "line 10: 'a' has a second unigram");
        assert_eq!(with("-1.5 b", "NaN b"), "line 10: 'NaN' is not a number");
        assert_eq!(with("-1.5 b", "1.5 b"), "line 10: log10 probability 1.5 is positive");
        assert_eq!(
            with("-0.5 a b", "-0.5 a b -1"),
            "line 14: 4 fields where a probability, 2 words should be"
        );
        assert_eq!(with("</s>", "c"), "line 12: no unigram </s> came before");
        assert_eq!(
            with("\\end\\\n", ""),
            "line 16: the text ends where an n-gram, a section or \\end\\ should come"
        );
        assert_eq!(
            with("\\end\\", "\\3-grams:"),
            "line 16: '\\3-grams:' where \\end\\ should come"
        );
        let mut bytes = TEXT.as_bytes().to_vec();
        bytes[TEXT.find("a b").unwrap()] = 0xff;
        assert!(read(&bytes[..]).unwrap_err().to_string().starts_with("line 14: cannot be read"));
    }

    #[test]
    fn every_prefix_of_a_file_is_an_error_and_no_panic() {
        let end = TEXT.trim_end().len();
        for cut in 0..end {
            assert!(read(&TEXT.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn words_that_would_not_come_back_are_refused() {
        let (model, _) = read(TEXT.as_bytes()).unwrap();
        for words in [&["a"][..], &["a", "b c"], &["a", ""], &["a", "</s>"], &["a", "a"]] {
            let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            let error = write(&model, &words, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
