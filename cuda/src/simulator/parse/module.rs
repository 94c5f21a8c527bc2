//! A module: its variables and its kernels.

use super::{
    lexer::{SyntaxError, Token, tokens},
    statement::{Cursor, Statement},
};
use crate::simulator::{fault::Space, types::Type};

/// A variable with an address, or a kernel's parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable<'t> {
    /// Where it lies.
    pub space: Space,
    /// Its name.
    pub name: &'t str,
    /// Alignment in bytes.
    pub align: usize,
    /// Size in bytes; 0 for the dynamic shared memory, `.extern` with `[]`.
    pub bytes: usize,
    /// Its first bytes; the rest is zero. Empty when it has no initialiser.
    pub initial: Vec<u8>,
}

/// `.reg .f32 %f<8>;` or `.reg .f16 low, high;`.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration<'t> {
    /// Type of the registers.
    pub kind: Type,
    /// The name, or what stands before the numbers of a family.
    pub name: &'t str,
    /// Members of a family `%f<8>`: `%f0` to `%f7`; none for a single register.
    pub family: Option<u32>,
}

/// What a kernel's body consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<'t> {
    /// `{`: names declared from here on end with the scope.
    Open,
    /// `}`.
    Close,
    /// Registers.
    Registers(Declaration<'t>),
    /// A variable in shared or local memory.
    Variable(Variable<'t>),
    /// A place to jump to.
    Label(&'t str),
    /// `name: .branchtargets a, b;`.
    Targets(&'t str, Vec<&'t str>),
    /// An instruction.
    Statement(Statement<'t>),
}

/// A kernel in words.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelText<'t> {
    /// Its name.
    pub name: &'t str,
    /// Its parameters in order.
    pub params: Vec<Variable<'t>>,
    /// Most threads of a block that it takes (`.maxntid`), or the exact block (`.reqntid`).
    pub max_threads: Option<usize>,
    /// Blocks that are to share a multiprocessor (`.minnctapersm`).
    pub min_blocks: usize,
    /// Its body, the outermost braces left out.
    pub items: Vec<Item<'t>>,
}

/// A module in words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module<'t> {
    /// Variables outside of kernels.
    pub variables: Vec<Variable<'t>>,
    /// Kernels in order.
    pub kernels: Vec<KernelText<'t>>,
}

/// Parses a module.
///
/// # Errors
/// At the first thing that is no PTX, or that this parser does not know.
pub fn parse(text: &str) -> Result<Module<'_>, SyntaxError> {
    let tokens = tokens(text)?;
    let mut cursor = Cursor::new(text, &tokens);
    let mut module = Module::default();
    while let Some(token) = cursor.peek() {
        let Token::Word(word) = token else {
            return Err(cursor.error("a directive is missing"));
        };
        match word {
            ".version" | ".target" | ".address_size" | ".file" => skip_line(&mut cursor),
            ".visible" | ".weak" | ".common" => {
                cursor.advance();
            }
            ".extern" | ".global" | ".const" | ".shared" => {
                if let Some(variables) = variables(&mut cursor)? {
                    module.variables.extend(variables);
                }
            }
            ".entry" => module.kernels.push(kernel(&mut cursor)?),
            ".section" => skip_section(&mut cursor)?,
            _ => return Err(cursor.error(format!("'{word}' outside of a kernel is not known"))),
        }
    }
    Ok(module)
}

/// Leaves out the rest of a line: directives without a semicolon.
fn skip_line(cursor: &mut Cursor<'_, '_>) {
    let line = cursor.line();
    while cursor.peek().is_some() && cursor.line() == line {
        cursor.advance();
    }
}

/// Leaves out a debug section, which holds no code.
fn skip_section(cursor: &mut Cursor<'_, '_>) -> Result<(), SyntaxError> {
    while !cursor.takes('{') {
        cursor.advance().ok_or_else(|| cursor.error("a section has no body"))?;
    }
    while !cursor.takes('}') {
        cursor.advance().ok_or_else(|| cursor.error("a section does not end"))?;
    }
    Ok(())
}

/// A fundamental type by its name.
pub(in crate::simulator) fn fundamental(word: &str) -> Option<Type> {
    Some(match word {
        "pred" => Type::Pred,
        "b8" => Type::B8,
        "b16" => Type::B16,
        "b32" => Type::B32,
        "b64" => Type::B64,
        "b128" => Type::B128,
        "u8" => Type::U8,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "u64" => Type::U64,
        "s8" => Type::S8,
        "s16" => Type::S16,
        "s32" => Type::S32,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "f16x2" => Type::F16x2,
        "bf16" => Type::Bf16,
        "bf16x2" => Type::Bf16x2,
        "tf32" => Type::Tf32,
        "e4m3" => Type::E4m3,
        "e5m2" => Type::E5m2,
        "e4m3x2" => Type::E4m3x2,
        "e5m2x2" => Type::E5m2x2,
        "f32" => Type::F32,
        "f64" => Type::F64,
        _ => return None,
    })
}

/// `.shared .align 4 .b8 name[64];`; nothing for declarations of functions.
fn variables<'t>(cursor: &mut Cursor<'t, '_>) -> Result<Option<Vec<Variable<'t>>>, SyntaxError> {
    let external = cursor.peek() == Some(Token::Word(".extern"));
    if external {
        cursor.advance();
    }
    let space = match cursor.word()? {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        other => return Err(cursor.error(format!("'.extern {other}' is not known"))),
    };
    let mut all = Vec::new();
    let (align, kind) = alignment_and_type(cursor)?;
    loop {
        all.push(declarator(cursor, space, align, kind)?);
        if !cursor.takes(',') {
            break;
        }
    }
    cursor.expect(';')?;
    Ok(Some(all))
}

fn alignment_and_type(cursor: &mut Cursor<'_, '_>) -> Result<(Option<usize>, Type), SyntaxError> {
    let mut align = None;
    loop {
        match cursor.word()? {
            ".align" => {
                let bytes = cursor.integer()?;
                let known =
                    usize::try_from(bytes).ok().filter(|n| n.is_power_of_two() && *n <= 1024);
                align = Some(known.ok_or_else(|| cursor.error(format!("alignment {bytes}")))?);
            }
            ".attribute" => {
                while !cursor.takes(')') {
                    cursor.advance().ok_or_else(|| cursor.error("an attribute does not end"))?;
                }
            }
            ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
            word => {
                let kind = word
                    .strip_prefix('.')
                    .and_then(fundamental)
                    .ok_or_else(|| cursor.error(format!("'{word}' is no type")))?;
                return Ok((align, kind));
            }
        }
    }
}

/// More than any real variable holds: a parser must not allocate what a typing error asks for.
const MOST_BYTES: usize = 1 << 28;

fn declarator<'t>(
    cursor: &mut Cursor<'t, '_>,
    space: Space,
    align: Option<usize>,
    kind: Type,
) -> Result<Variable<'t>, SyntaxError> {
    let name = loop {
        // A parameter's pointer attributes may follow its type.
        match cursor.word()? {
            ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
            ".align" => {
                cursor.integer()?;
            }
            name => break name,
        }
    };
    let mut bytes = kind.bytes();
    while cursor.takes('[') {
        let count = if cursor.peek() == Some(Token::Mark(']')) { 0 } else { cursor.integer()? };
        let product = usize::try_from(count).ok().and_then(|count| bytes.checked_mul(count));
        bytes = product
            .filter(|&bytes| bytes <= MOST_BYTES)
            .ok_or_else(|| cursor.error(format!("{count} elements in '{name}'")))?;
        cursor.expect(']')?;
    }
    let mut initial = Vec::new();
    if cursor.takes('=') {
        initializer(cursor, kind, &mut initial, 0)?;
        if initial.len() > bytes {
            return Err(cursor.error(format!("more values than '{name}' has elements")));
        }
    }
    Ok(Variable { space, name, align: align.unwrap_or(kind.bytes()), bytes, initial })
}

fn initializer(
    cursor: &mut Cursor<'_, '_>,
    kind: Type,
    bytes: &mut Vec<u8>,
    depth: usize,
) -> Result<(), SyntaxError> {
    if cursor.takes('{') {
        if depth > 4 {
            return Err(cursor.error("initialisers nested too deeply"));
        }
        let mut first = true;
        while !cursor.takes('}') {
            if !first {
                cursor.expect(',')?;
            }
            first = false;
            initializer(cursor, kind, bytes, depth + 1)?;
        }
        return Ok(());
    }
    let value = match cursor.peek() {
        Some(Token::Float32(bits)) => {
            cursor.advance();
            u64::from(bits)
        }
        Some(Token::Float64(bits)) => {
            cursor.advance();
            bits
        }
        _ => cursor.integer()? as u64,
    };
    let size = kind.bytes().min(8);
    bytes.extend_from_slice(&value.to_le_bytes()[..size]);
    Ok(())
}

fn kernel<'t>(cursor: &mut Cursor<'t, '_>) -> Result<KernelText<'t>, SyntaxError> {
    cursor.advance();
    let mut kernel = KernelText {
        name: cursor.word()?,
        params: Vec::new(),
        max_threads: None,
        min_blocks: 1,
        items: Vec::new(),
    };
    if cursor.takes('(') {
        while !cursor.takes(')') {
            if !kernel.params.is_empty() {
                cursor.expect(',')?;
            }
            if cursor.word()? != ".param" {
                return Err(cursor.error("'.param' is missing"));
            }
            let (align, kind) = alignment_and_type(cursor)?;
            kernel.params.push(declarator(cursor, Space::Param, align, kind)?);
        }
    }
    while !cursor.takes('{') {
        match cursor.word()? {
            ".maxntid" | ".reqntid" => {
                let mut threads = cursor.integer()?;
                while cursor.takes(',') {
                    threads = threads.saturating_mul(cursor.integer()?);
                }
                kernel.max_threads = usize::try_from(threads).ok();
            }
            ".minnctapersm" => {
                kernel.min_blocks = usize::try_from(cursor.integer()?).unwrap_or(1).max(1);
            }
            ".maxnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                cursor.integer()?;
            }
            ".reqnctapercluster" => {
                cursor.integer()?;
                while cursor.takes(',') {
                    cursor.integer()?;
                }
            }
            ".noreturn" | ".explicitcluster" => {}
            ".pragma" => {
                cursor.advance();
                cursor.expect(';')?;
            }
            other => return Err(cursor.error(format!("directive '{other}' is not known"))),
        }
    }
    let mut depth = 0;
    loop {
        if cursor.takes('}') {
            if depth == 0 {
                return Ok(kernel);
            }
            depth -= 1;
            kernel.items.push(Item::Close);
        } else if cursor.takes('{') {
            depth += 1;
            kernel.items.push(Item::Open);
        } else {
            items(cursor, &mut kernel.items)?;
        }
    }
}

/// One declaration, label or instruction; empty statements fall away.
fn items<'t>(cursor: &mut Cursor<'t, '_>, items: &mut Vec<Item<'t>>) -> Result<(), SyntaxError> {
    if cursor.takes(';') {
        return Ok(());
    }
    match cursor.peek() {
        None => return Err(cursor.error("the kernel does not end")),
        Some(Token::Word(".reg")) => {
            cursor.advance();
            registers(cursor, items)?;
        }
        Some(Token::Word(".shared" | ".local" | ".global" | ".const" | ".extern")) => {
            items.extend(variables(cursor)?.into_iter().flatten().map(Item::Variable));
        }
        Some(Token::Word(".pragma")) => {
            cursor.advance();
            cursor.advance();
            cursor.expect(';')?;
        }
        Some(Token::Word(".loc")) => skip_line(cursor),
        Some(Token::Word(name)) if cursor.peek_second() == Some(Token::Mark(':')) => {
            cursor.advance();
            cursor.advance();
            if cursor.peek() == Some(Token::Word(".branchtargets")) {
                cursor.advance();
                let mut targets = vec![cursor.word()?];
                while cursor.takes(',') {
                    targets.push(cursor.word()?);
                }
                cursor.expect(';')?;
                items.push(Item::Targets(name, targets));
            } else {
                items.push(Item::Label(name));
            }
        }
        Some(_) => items.push(Item::Statement(cursor.statement()?)),
    }
    Ok(())
}

fn registers<'t>(
    cursor: &mut Cursor<'t, '_>,
    items: &mut Vec<Item<'t>>,
) -> Result<(), SyntaxError> {
    let (_, kind) = alignment_and_type(cursor)?;
    loop {
        let name = cursor.word()?;
        let mut family = None;
        if cursor.takes('<') {
            let count = cursor.integer()?;
            let known = u32::try_from(count).ok().filter(|&n| n <= 1 << 20);
            family = Some(known.ok_or_else(|| cursor.error(format!("{count} registers")))?);
            cursor.expect('>')?;
        }
        items.push(Item::Registers(Declaration { kind, name, family }));
        if !cursor.takes(',') {
            break;
        }
    }
    cursor.expect(';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;

    #[test]
    fn every_committed_module_parses() {
        for stem in ptx::modules() {
            let module =
                parse(ptx::module(stem).unwrap()).unwrap_or_else(|e| panic!("{stem}: {e}"));
            assert!(!module.kernels.is_empty(), "{stem} has no kernel");
        }
    }

    #[test]
    fn variables_have_sizes_alignments_and_values() {
        let text = ".version 8.4\n.target sm_80\n.address_size 64\n\
                    .global .align 4 .u32 table[3] = {1, -1};\n\
                    .extern .shared .align 16 .b8 dynamic[];\n";
        let module = parse(text).unwrap();
        let [table, dynamic] = &module.variables[..] else { panic!("{module:?}") };
        assert_eq!((table.bytes, table.align, table.initial.len()), (12, 4, 8));
        assert_eq!(table.initial[4..], [0xFF; 4]);
        assert_eq!((dynamic.bytes, dynamic.align, dynamic.space), (0, 16, Space::Shared));
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for text in [".entry k(", ".entry k() {", ".entry k() { ld", ".global .u32 x[", ".global"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
