//! Real text: where it comes from, its sentences and words, and the vocabulary it gives.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use touchstone_reference::ngram;

/// A text and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    name: String,
    text: String,
}

/// Why a corpus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file cannot be read.
    #[error("cannot read corpus {path}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error(
        "corpus {path}: line {line}, byte offset {offset}: not UTF-8 (byte 0x{byte:02x})",
        path = path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line of the first bad byte, from 1.
        line: usize,
        /// Offset of the first bad byte in the file, from 0.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// The text has too little in it.
    #[error("corpus {name}: {found}, too little to train on (needs {needed})")]
    TooSmall {
        /// Name of the corpus.
        name: String,
        /// What there is.
        found: String,
        /// What is needed.
        needed: String,
    },
}

impl Corpus {
    /// The default that needs no download: Cicero, *De finibus bonorum et malorum*, book one, in Latin,
    /// about 7000 words, public domain; the crate `lipsum` carries it.
    pub fn embedded() -> Self {
        Self { name: "cicero-de-finibus-1".into(), text: lipsum::LIBER_PRIMUS.into() }
    }

    /// A user's own text in UTF-8. A byte-order mark is skipped.
    ///
    /// # Errors
    /// If the file is missing, not UTF-8 (with line and byte offset), or has no word in it.
    pub fn from_file(path: &Path) -> Result<Self, CorpusError> {
        let bytes = std::fs::read(path)
            .map_err(|source| CorpusError::Unreadable { path: path.into(), source })?;
        Self::from_bytes(path, bytes)
    }

    /// The same with the file's bytes already read; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Corpus::from_file`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, CorpusError> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let line = 1 + bytes[..offset].iter().filter(|&&b| b == b'\n').count();
            CorpusError::NotUtf8 { path: path.into(), line, offset, byte: bytes[offset] }
        })?;
        let corpus = Self::from_text(
            &path.display().to_string(),
            text.strip_prefix('\u{feff}').unwrap_or(&text),
        );
        if corpus.sentences().is_empty() {
            let found = if text.is_empty() { "empty, no word" } else { "no word" };
            return Err(corpus.too_small(found, "text"));
        }
        Ok(corpus)
    }

    /// A text from memory.
    pub fn from_text(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// What the corpus is called: its file, or the embedded text's title.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length of the text in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The sentences as lower-cased words; none is empty.
    ///
    /// A word is a run of letters, digits and marks, with apostrophes and hyphens inside it. A sentence
    /// ends at `.`, `!`, `?`, `…` or `。` before anything but a letter or digit, and at an empty line.
    pub fn sentences(&self) -> Vec<Vec<String>> {
        let (mut sentences, mut sentence, mut word) = (Vec::new(), Vec::new(), String::new());
        let mut chars = self.text.chars().peekable();
        let mut line_is_empty = false;
        while let Some(c) = chars.next() {
            let next_continues = chars.peek().is_some_and(|next| next.is_alphanumeric());
            let joins = matches!(c, '\'' | '’' | '-') && !word.is_empty() && next_continues;
            if c.is_alphanumeric() || is_mark(c) || joins {
                word.extend(c.to_lowercase());
                line_is_empty = false;
                continue;
            }
            if !word.is_empty() {
                sentence.push(std::mem::take(&mut word));
            }
            let stop = matches!(c, '.' | '!' | '?' | '…' | '。') && !next_continues;
            if (stop || (c == '\n' && line_is_empty)) && !sentence.is_empty() {
                sentences.push(std::mem::take(&mut sentence));
            }
            line_is_empty = c == '\n' || (line_is_empty && c.is_whitespace());
        }
        sentence.extend((!word.is_empty()).then_some(word));
        sentences.extend((!sentence.is_empty()).then_some(sentence));
        sentences
    }

    /// The error that there is too little text.
    pub(crate) fn too_small(&self, found: &str, needed: &str) -> CorpusError {
        let name = self.name.clone();
        CorpusError::TooSmall { name, found: found.into(), needed: needed.into() }
    }
}

/// One sentence in this many is held out from training.
const HELD_OUT: usize = 10;

/// Sentences to train on, then those held out, in the order of the text.
pub fn split(sentences: &[Vec<String>]) -> [Vec<Vec<String>>; 2] {
    [false, true].map(|held_out| {
        let chosen = |(i, _): &(usize, _)| (i % HELD_OUT == HELD_OUT - 1) == held_out;
        sentences.iter().enumerate().filter(chosen).map(|(_, s)| s.clone()).collect()
    })
}

/// Combining accents, which belong to the letter before them.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// Words and their ids: the most frequent word is 0. Three more ids follow the words: `<unk>`, `</s>` and
/// `<s>`, as in [`ngram`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// The words that occur at least `min_count` times, the `max_words` most frequent of them; words of
    /// equal count in alphabetical order.
    pub fn new(sentences: &[Vec<String>], min_count: usize, max_words: usize) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in sentences.iter().flatten() {
            *counts.entry(word).or_default() += 1;
        }
        let mut words: Vec<(&str, usize)> =
            counts.into_iter().filter(|(_, count)| *count >= min_count).collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        words.truncate(max_words);
        let words: Vec<String> = words.into_iter().map(|(word, _)| word.to_string()).collect();
        let ids = (0..).zip(&words).map(|(id, word)| (word.clone(), id)).collect();
        Self { words, ids }
    }

    /// Number of words, the three special ids not counted.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Id of a word; `<unk>`'s if it is not in the vocabulary.
    pub fn id(&self, word: &str) -> u32 {
        self.ids.get(word).copied().unwrap_or(ngram::unk(self.len()))
    }

    /// Ids of a sentence's words.
    pub fn ids(&self, sentence: &[String]) -> Vec<u32> {
        sentence.iter().map(|word| self.id(word)).collect()
    }

    /// The word of an id.
    pub fn word(&self, id: u32) -> &str {
        let special = ["<unk>", "</s>", "<s>"];
        let at = id as usize;
        self.words.get(at).map_or_else(|| special[at - self.len()], String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<Vec<String>> {
        Corpus::from_text("test", text).sentences()
    }

    #[test]
    fn words_and_sentences_are_told_apart() {
        let found =
            sentences("It's 3.14 well-known facts - or not?! Yes…\n\nA heading\n\n“Quoted.” End");
        let expected: [&[&str]; 5] = [
            &["it's", "3", "14", "well-known", "facts", "or", "not"],
            &["yes"],
            &["a", "heading"],
            &["quoted"],
            &["end"],
        ];
        assert_eq!(found, expected);
        assert!(sentences(" \n\n ... — !").is_empty());
        assert_eq!(sentences("ÉTÉ naïve"), [["été", "naïve"]]);
    }

    #[test]
    fn frequent_words_come_first_and_rare_ones_are_unknown() {
        let sentences = sentences("b a b. c a b d.");
        let vocabulary = Vocabulary::new(&sentences, 2, 10);
        assert_eq!(vocabulary.len(), 2);
        assert_eq!(vocabulary.ids(&sentences[1]), [2, 1, 0, 2]);
        let words: Vec<&str> = (0..5).map(|id| vocabulary.word(id)).collect();
        assert_eq!(words, ["b", "a", "<unk>", "</s>", "<s>"]);
        assert_eq!(Vocabulary::new(&sentences, 1, 3).len(), 3);
    }

    #[test]
    fn the_embedded_corpus_has_text() {
        let sentences = Corpus::embedded().sentences();
        assert!(sentences.len() > 300 && sentences.iter().flatten().count() > 7000);
        assert_eq!(sentences[0][..4], ["non", "eram", "nescius", "brute"]);
    }
}
