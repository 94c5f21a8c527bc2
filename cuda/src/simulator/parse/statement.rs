//! One instruction in words: guard, opcode, operands.

use super::lexer::{Placed, SyntaxError, Token};

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'t> {
    /// A register, variable, label or special register, `_` included.
    Name(&'t str),
    /// `!%p1`.
    Not(&'t str),
    /// An integer, two's complement.
    Integer(u64),
    /// Bits of an f32.
    Float32(u32),
    /// Bits of an f64.
    Float64(u64),
    /// `variable+4`.
    Sum(&'t str, i64),
    /// `%r1|%p1`: two results.
    Pair(&'t str, &'t str),
    /// `{a, b}`.
    Vector(Vec<Operand<'t>>),
    /// `[base+offset]`, or `[base, {coordinates}]` of a tensor map.
    Address {
        /// Register or variable; none for an absolute address.
        base: Option<&'t str>,
        /// Bytes.
        offset: i64,
        /// What follows the address inside the brackets.
        more: Vec<Operand<'t>>,
    },
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand<'t>>),
}

/// One instruction as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement<'t> {
    /// `@%p1` or `@!%p1`: the predicate, and whether it is negated.
    pub guard: Option<(&'t str, bool)>,
    /// Opcode with all modifiers, as `ld.global.nc.v4.u32`.
    pub opcode: &'t str,
    /// Operands in order.
    pub operands: Vec<Operand<'t>>,
    /// Line of its first token.
    pub line: u32,
    /// The whole statement, without the semicolon.
    pub text: &'t str,
}

/// Reads tokens one after the other.
#[derive(Clone, Debug)]
pub struct Cursor<'t, 'a> {
    pub(super) text: &'t str,
    tokens: &'a [Placed<'t>],
    at: usize,
}

impl<'t, 'a> Cursor<'t, 'a> {
    pub(super) const fn new(text: &'t str, tokens: &'a [Placed<'t>]) -> Self {
        Self { text, tokens, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).map(|placed| placed.token)
    }

    pub(super) fn peek_second(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at + 1).map(|placed| placed.token)
    }

    pub(super) fn advance(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Line of the next token, or of the last.
    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |placed| placed.line)
    }

    pub(super) fn start(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |placed| placed.start)
    }

    pub(super) fn takes(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    pub(super) fn error(&self, what: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.line(), what)
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<(), SyntaxError> {
        if self.takes(mark) { Ok(()) } else { Err(self.error(format!("'{mark}' is missing"))) }
    }

    pub(super) fn word(&mut self) -> Result<&'t str, SyntaxError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.error("a name is missing")),
        }
    }

    /// An integer with an optional sign.
    pub(super) fn integer(&mut self) -> Result<i64, SyntaxError> {
        let mut negative = false;
        while let Some(Token::Mark(sign @ ('-' | '+'))) = self.peek() {
            negative ^= sign == '-';
            self.at += 1;
        }
        match self.advance() {
            Some(Token::Integer(value)) if negative => Ok((value as i64).wrapping_neg()),
            Some(Token::Integer(value)) => Ok(value as i64),
            _ => Err(self.error("an integer is missing")),
        }
    }

    /// A statement up to its semicolon.
    pub(super) fn statement(&mut self) -> Result<Statement<'t>, SyntaxError> {
        let (line, start) = (self.line(), self.start());
        let guard = if self.takes('@') {
            let negated = self.takes('!');
            Some((self.word()?, negated))
        } else {
            None
        };
        let opcode = self.word()?;
        let mut operands = Vec::new();
        if self.peek() != Some(Token::Mark(';')) {
            loop {
                operands.push(self.operand(0)?);
                if !self.takes(',') {
                    break;
                }
            }
        }
        let text = self.text[start..self.start()].trim_end();
        self.expect(';')?;
        Ok(Statement { guard, opcode, operands, line, text })
    }

    fn operand(&mut self, depth: usize) -> Result<Operand<'t>, SyntaxError> {
        if depth > 4 {
            return Err(self.error("operands nested too deeply"));
        }
        match self.peek() {
            Some(Token::Mark('!')) => {
                self.at += 1;
                Ok(Operand::Not(self.word()?))
            }
            Some(Token::Mark('{')) => Ok(Operand::Vector(self.list('{', '}', depth)?)),
            Some(Token::Mark('(')) => Ok(Operand::List(self.list('(', ')', depth)?)),
            Some(Token::Mark('[')) => self.address(depth),
            Some(Token::Mark('-' | '+') | Token::Integer(_)) => {
                Ok(Operand::Integer(self.integer()? as u64))
            }
            Some(Token::Float32(bits)) => {
                self.at += 1;
                Ok(Operand::Float32(bits))
            }
            Some(Token::Float64(bits)) => {
                self.at += 1;
                Ok(Operand::Float64(bits))
            }
            Some(Token::Word(name)) => {
                self.at += 1;
                match self.peek() {
                    Some(Token::Mark('|')) => {
                        self.at += 1;
                        Ok(Operand::Pair(name, self.word()?))
                    }
                    Some(Token::Mark('+' | '-')) => Ok(Operand::Sum(name, self.integer()?)),
                    _ => Ok(Operand::Name(name)),
                }
            }
            _ => Err(self.error("an operand is missing")),
        }
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        depth: usize,
    ) -> Result<Vec<Operand<'t>>, SyntaxError> {
        self.expect(open)?;
        let mut all = Vec::new();
        while !self.takes(close) {
            if !all.is_empty() {
                self.expect(',')?;
            }
            all.push(self.operand(depth + 1)?);
        }
        Ok(all)
    }

    fn address(&mut self, depth: usize) -> Result<Operand<'t>, SyntaxError> {
        self.expect('[')?;
        let base = match self.peek() {
            Some(Token::Word(name)) => {
                self.at += 1;
                Some(name)
            }
            _ => None,
        };
        let offset = match self.peek() {
            Some(Token::Mark(']' | ',')) if base.is_some() => 0,
            _ => self.integer()?,
        };
        let mut more = Vec::new();
        while self.takes(',') {
            more.push(self.operand(depth + 1)?);
        }
        self.expect(']')?;
        Ok(Operand::Address { base, offset, more })
    }
}
