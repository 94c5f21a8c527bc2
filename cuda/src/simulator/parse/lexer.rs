//! Text into tokens.

/// The text is no PTX.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// What was found or missing.
    pub what: String,
}

impl SyntaxError {
    /// An error at a line.
    pub fn new(line: u32, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'t> {
    /// An identifier, opcode with its modifiers, directive, register or label: letters, digits and `_ $ % . ::`.
    Word(&'t str),
    /// An integer, two's complement.
    Integer(u64),
    /// `0f…`: the bits of an f32.
    Float32(u32),
    /// `0d…`, or a decimal fraction: the bits of an f64.
    Float64(u64),
    /// A string, without its quotes.
    Text(&'t str),
    /// Any of `{ } [ ] ( ) < > , ; : @ ! | + - =`.
    Mark(char),
}

/// A token with its line and its position in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed<'t> {
    /// The token.
    pub token: Token<'t>,
    /// Line, from 1.
    pub line: u32,
    /// Byte offset of its first character.
    pub start: usize,
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Cuts PTX text into tokens; comments and blanks fall away.
///
/// # Errors
/// At the first character that belongs to no token.
pub fn tokens(text: &str) -> Result<Vec<Placed<'_>>, SyntaxError> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            _ if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|&b| b == b'\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let length = text[at..]
                    .find("*/")
                    .ok_or_else(|| SyntaxError::new(line, "a comment does not end"))?;
                line += bytes[at..at + length].iter().filter(|&&b| b == b'\n').count() as u32;
                at += length + 2;
                continue;
            }
            b'"' => {
                let length = bytes[at + 1..]
                    .iter()
                    .position(|&b| b == b'"' || b == b'\n')
                    .filter(|&length| bytes[at + 1 + length] == b'"')
                    .ok_or_else(|| SyntaxError::new(line, "a string does not end"))?;
                at += length + 2;
                Token::Text(&text[start + 1..start + 1 + length])
            }
            b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|&&b| is_word(b)).count();
                at += length;
                number(&text[start..at]).ok_or_else(|| {
                    SyntaxError::new(line, format!("number '{}'", &text[start..at]))
                })?
            }
            _ if is_word(byte) => {
                loop {
                    at += bytes[at..].iter().take_while(|&&b| is_word(b)).count();
                    let continues = bytes[at..].starts_with(b"::")
                        && bytes.get(at + 2).is_some_and(|&b| is_word(b));
                    if !continues {
                        break;
                    }
                    at += 2;
                }
                Token::Word(&text[start..at])
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@'
            | b'!' | b'|' | b'+' | b'-' | b'=' => {
                at += 1;
                Token::Mark(char::from(byte))
            }
            _ => return Err(SyntaxError::new(line, format!("unexpected byte {byte:#04x}"))),
        };
        found.push(Placed { token, line, start });
    }
    Ok(found)
}

fn number(text: &str) -> Option<Token<'static>> {
    let digits = |prefix: usize, radix| {
        let body = text[prefix..].strip_suffix(['U', 'u']).unwrap_or(&text[prefix..]);
        u64::from_str_radix(body, radix).ok().map(Token::Integer)
    };
    let bits = |size: usize| {
        let body = &text[2..];
        (body.len() == size).then(|| u64::from_str_radix(body, 16).ok()).flatten()
    };
    match text.as_bytes() {
        [b'0', b'f' | b'F', ..] => Some(Token::Float32(bits(8)? as u32)),
        [b'0', b'd' | b'D', ..] => Some(Token::Float64(bits(16)?)),
        [b'0', b'x' | b'X', ..] => digits(2, 16),
        [b'0', b'b' | b'B', ..] => digits(2, 2),
        [b'0', b'0'..=b'7', ..] => digits(1, 8),
        _ if text.contains('.') => text.parse::<f64>().ok().map(|v| Token::Float64(v.to_bits())),
        _ => digits(0, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Vec<Token<'_>> {
        tokens(text).unwrap().into_iter().map(|placed| placed.token).collect()
    }

    #[test]
    fn words_numbers_and_marks_are_told_apart() {
        let expected = vec![
            Token::Word("cp.async.bulk.shared::cluster.global"),
            Token::Mark('['),
            Token::Word("%r1"),
            Token::Mark('+'),
            Token::Mark('-'),
            Token::Integer(16),
            Token::Mark(']'),
            Token::Mark(','),
            Token::Float32(0x3F80_0000),
            Token::Mark(';'),
            Token::Word("$L__BB0_3"),
            Token::Mark(':'),
        ];
        assert_eq!(
            only("cp.async.bulk.shared::cluster.global [%r1+-16], 0f3F800000; // end\n$L__BB0_3:"),
            expected
        );
        assert_eq!(only("0x1F 017 42U"), [31, 15, 42].map(Token::Integer));
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let found = tokens("/* one\ntwo */ a\n// b\nc").unwrap();
        assert_eq!(found.iter().map(|placed| placed.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn what_is_no_token_is_an_error_with_its_line() {
        assert_eq!(tokens("a\n\u{e9}").unwrap_err().line, 2);
        assert!(
            tokens("0fXYZ").is_err() && tokens("\"open").is_err() && tokens("/* open").is_err()
        );
    }
}
