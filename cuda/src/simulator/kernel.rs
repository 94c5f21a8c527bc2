//! A kernel ready to run: its instructions decoded, its names resolved, its shared memory laid out.

use std::collections::{HashMap, HashSet};

use super::{
    fault::Space,
    instructions::{Decoded, Form, Names, Refusal, Symbol, decode},
    memory::variable_address,
    monitor::Class,
    parse::{self, Item, KernelText, Module, Operand, Statement, SyntaxError, Variable},
    registers::{Bank, Counts, Source},
};
use crate::ptx::lines::{self, SourceLine};

/// Why a kernel cannot be run at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("module '{module}': {error}")]
    Syntax { module: String, error: SyntaxError },
    #[error("the simulator does not know this instruction: '{module}', PTX line {line}: {text}")]
    UnknownInstruction { module: String, line: u32, text: String },
    #[error("'{module}', PTX line {line}: {what}: {text}")]
    Malformed { module: String, line: u32, text: String, what: String },
    #[error("no kernel file named '{0}' was compiled in")]
    NoModule(String),
    #[error("'{module}' has no kernel '{kernel}'")]
    NoKernel { module: String, kernel: String },
}

/// One instruction.
pub struct Instruction {
    /// What it does.
    pub decoded: Decoded,
    /// The predicate under which it does it.
    pub guard: Option<Source>,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// The statement in PTX.
    pub text: Box<str>,
}

/// A variable in shared memory.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedVariable {
    /// Its name.
    pub name: String,
    /// Offset from the start of the block's shared memory.
    pub offset: usize,
    /// Size in bytes; 0 for the dynamic memory, which reaches to the end.
    pub bytes: usize,
}

/// A global or constant variable of the module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleVariable {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub bytes: usize,
    /// Its first bytes; the rest is zero.
    pub initial: Vec<u8>,
    /// Whether it is in constant memory.
    pub read_only: bool,
}

/// A kernel ready to run.
pub struct Kernel {
    /// Stem of its module.
    pub module: String,
    /// Its name.
    pub name: String,
    /// Its instructions; the last ends the thread.
    pub instructions: Vec<Instruction>,
    /// Registers of a thread.
    pub counts: Counts,
    /// Offset and size of each parameter.
    pub params: Vec<(usize, usize)>,
    /// Size of all parameters.
    pub param_bytes: usize,
    /// Shared variables by offset.
    pub shared: Vec<SharedVariable>,
    /// Shared memory of a block without the dynamic part, whose alignment is included.
    pub static_shared_bytes: usize,
    /// Local memory of a thread.
    pub local_bytes: usize,
    /// Most threads of a block.
    pub max_threads: Option<usize>,
    /// Blocks that are to share a multiprocessor.
    pub min_blocks: usize,
    /// The module's variables, in the order of their addresses.
    pub variables: Vec<ModuleVariable>,
    /// Whether its blocks talk to each other.
    pub communicates: bool,
    /// Whether the lines of its text are those of the committed one, whose sources are known. A mutant's are, too,
    /// when it is changed within its lines.
    committed_lines: bool,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("module", &self.module)
            .field("name", &self.name)
            .field("instructions", &self.instructions.len())
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Decodes one kernel of a module's PTX text.
    ///
    /// # Errors
    /// If the text is malformed or an instruction unknown, each by name and line.
    pub fn new(module: &str, text: &str, kernel: &str) -> Result<Self, Error> {
        let parsed = parse::parse(text)
            .map_err(|error| Error::Syntax { module: module.to_string(), error })?;
        let found = parsed.kernels.iter().find(|k| k.name == kernel);
        let found = found.ok_or_else(|| Error::NoKernel {
            module: module.to_string(),
            kernel: kernel.to_string(),
        })?;
        let mut built = Builder::new(module, &parsed, found).build(found)?;
        built.committed_lines = lines::told(module) == Some(text.lines().count());
        Ok(built)
    }

    /// The line of source that an instruction of it comes from, where that is known.
    pub fn source(&self, instruction: &Instruction) -> Option<SourceLine> {
        self.committed_lines.then(|| lines::source(&self.module, instruction.line)).flatten()
    }
}

/// Names of all kernels of a module's PTX text.
///
/// # Errors
/// If the text is malformed.
pub fn kernels(text: &str) -> Result<Vec<String>, SyntaxError> {
    Ok(parse::parse(text)?.kernels.iter().map(|kernel| kernel.name.to_string()).collect())
}

struct Builder<'t> {
    names: Names<'t>,
    /// Labels of each scope, in the order in which scopes open.
    labels: Vec<HashMap<&'t str, u32>>,
    next: Counts,
    kernel: Kernel,
}

const fn align(offset: usize, to: usize) -> usize {
    offset.div_ceil(to) * to
}

impl<'t> Builder<'t> {
    fn new(module: &str, parsed: &Module<'t>, text: &KernelText<'t>) -> Self {
        let mut builder = Self {
            names: Names { scopes: vec![HashMap::new()] },
            labels: labels(&text.items),
            next: Counts::default(),
            kernel: Kernel {
                module: module.to_string(),
                name: text.name.to_string(),
                instructions: Vec::new(),
                counts: Counts::default(),
                params: Vec::new(),
                param_bytes: 0,
                shared: Vec::new(),
                static_shared_bytes: 0,
                local_bytes: 0,
                max_threads: text.max_threads,
                min_blocks: text.min_blocks,
                variables: Vec::new(),
                communicates: false,
                committed_lines: false,
            },
        };
        builder.declare_variables(parsed, text);
        builder.declare_params(&text.params);
        builder
    }

    /// Module variables: of shared ones only those that the kernel names take memory, the dynamic one last.
    fn declare_variables(&mut self, parsed: &Module<'t>, text: &KernelText<'t>) {
        let named = names_used(&text.items);
        let used = |v: &&Variable<'t>| v.space != Space::Shared || named.contains(v.name);
        let own = text.items.iter().filter_map(|item| match item {
            Item::Variable(variable) if variable.space == Space::Shared => Some(variable),
            _ => None,
        });
        let mut all: Vec<&Variable<'t>> = parsed.variables.iter().filter(used).chain(own).collect();
        all.sort_by_key(|variable| variable.bytes == 0);
        for variable in all {
            match variable.space {
                Space::Shared => self.place_shared(variable),
                space => {
                    let address = variable_address(self.kernel.variables.len());
                    self.names.add(variable.name, Symbol::Variable(space, address));
                    self.kernel.variables.push(ModuleVariable {
                        name: variable.name.to_string(),
                        bytes: variable.bytes,
                        initial: variable.initial.clone(),
                        read_only: space == Space::Const,
                    });
                }
            }
        }
    }

    fn place_shared(&mut self, variable: &Variable<'t>) {
        let kernel = &mut self.kernel;
        let offset = align(kernel.static_shared_bytes, variable.align.max(1));
        kernel.static_shared_bytes = offset + variable.bytes;
        kernel.shared.push(SharedVariable {
            name: variable.name.to_string(),
            offset,
            bytes: variable.bytes,
        });
        self.names.add(variable.name, Symbol::Variable(Space::Shared, offset as u64));
    }

    fn declare_params(&mut self, params: &[Variable<'t>]) {
        for param in params {
            let offset = align(self.kernel.param_bytes, param.align.max(1));
            self.kernel.param_bytes = offset + param.bytes;
            self.kernel.params.push((offset, param.bytes));
            self.names.add(param.name, Symbol::Variable(Space::Param, offset as u64));
        }
    }

    fn build(mut self, text: &KernelText<'t>) -> Result<Kernel, Error> {
        let mut scope = 0;
        self.open(scope);
        let mut outer = Vec::new();
        for item in &text.items {
            match item {
                Item::Open => {
                    outer.push(self.next);
                    scope += 1;
                    self.open(scope);
                }
                Item::Close => {
                    self.names.scopes.pop();
                    self.next = outer.pop().unwrap_or_default();
                }
                Item::Registers(declaration) => {
                    let Some(bank) = Bank::of(declaration.kind) else {
                        return Err(self.malformed(0, declaration.name, "128-bit registers"));
                    };
                    let count = declaration.family.unwrap_or(1);
                    let first = self.take_registers(bank, count);
                    let symbol = match declaration.family {
                        Some(count) => Symbol::Family(bank, first, count),
                        None => Symbol::Register(bank, first),
                    };
                    self.names.add(declaration.name, symbol);
                }
                Item::Variable(variable) => self.declare_own(variable),
                Item::Targets(name, targets) => {
                    let found: Option<Vec<u32>> = targets
                        .iter()
                        .map(|target| match self.names.find(target) {
                            Some(Symbol::Label(index)) => Some(index),
                            _ => None,
                        })
                        .collect();
                    let Some(found) = found else {
                        return Err(self.malformed(0, name, "a branch target is no label"));
                    };
                    self.names.add(name, Symbol::Targets(found));
                }
                Item::Label(_) => {}
                Item::Statement(statement) => self.instruction(statement)?,
            }
        }
        let end =
            Statement { guard: None, opcode: "exit", operands: vec![], line: 0, text: "exit" };
        self.instruction(&end)?;
        let last_line = text.items.iter().rev().find_map(|item| match item {
            Item::Statement(statement) => Some(statement.line),
            _ => None,
        });
        if let Some(exit) = self.kernel.instructions.last_mut() {
            exit.line = last_line.unwrap_or(0);
        }
        let dynamic_align = self.kernel.shared.iter().any(|variable| variable.bytes == 0);
        if dynamic_align {
            // The dynamic memory starts at its own alignment, behind everything static.
            self.kernel.static_shared_bytes = self
                .kernel
                .shared
                .iter()
                .find(|variable| variable.bytes == 0)
                .map_or(0, |variable| variable.offset);
        }
        Ok(self.kernel)
    }

    fn open(&mut self, scope: usize) {
        let labels = self.labels.get(scope).into_iter().flatten();
        let table = labels.map(|(&name, &index)| (name, Symbol::Label(index))).collect();
        self.names.scopes.push(table);
    }

    fn take_registers(&mut self, bank: Bank, count: u32) -> u32 {
        let next = match bank {
            Bank::Words => &mut self.next.words,
            Bank::Longs => &mut self.next.longs,
            Bank::Predicates => &mut self.next.predicates,
        };
        let first = *next;
        *next += count;
        let most = &mut self.kernel.counts;
        most.words = most.words.max(self.next.words);
        most.longs = most.longs.max(self.next.longs);
        most.predicates = most.predicates.max(self.next.predicates);
        first
    }

    /// A variable declared within the kernel; shared ones were placed with the module's.
    fn declare_own(&mut self, variable: &Variable<'t>) {
        if variable.space == Space::Local {
            let offset = align(self.kernel.local_bytes, variable.align.max(1));
            self.kernel.local_bytes = offset + variable.bytes;
            self.names.add(variable.name, Symbol::Variable(Space::Local, offset as u64));
        }
    }

    fn instruction(&mut self, statement: &Statement<'t>) -> Result<(), Error> {
        let mut form = Form::new(statement, &self.names);
        let decoded = decode(&mut form).map_err(|refusal| match refusal {
            Refusal::Unknown => Error::UnknownInstruction {
                module: self.kernel.module.clone(),
                line: statement.line,
                text: statement.text.to_string(),
            },
            Refusal::Operand(what) => self.malformed(statement.line, statement.text, &what),
        })?;
        let guard = match statement.guard {
            None => None,
            Some((name, negated)) => match form.source_named(name) {
                Ok(Source::Predicate(i)) if negated => Some(Source::NotPredicate(i)),
                Ok(source @ Source::Predicate(_)) => Some(source),
                _ => {
                    return Err(self.malformed(
                        statement.line,
                        statement.text,
                        "the guard is no predicate",
                    ));
                }
            },
        };
        self.kernel.communicates |= decoded.communicates;
        let (line, text) = (statement.line, statement.text.into());
        self.kernel.instructions.push(Instruction { decoded, guard, line, text });
        Ok(())
    }

    fn malformed(&self, line: u32, text: &str, what: &str) -> Error {
        Error::Malformed {
            module: self.kernel.module.clone(),
            line,
            text: text.to_string(),
            what: what.to_string(),
        }
    }
}

/// Labels of each scope by the index of the instruction behind them; scopes in the order of their opening.
fn labels<'t>(items: &[Item<'t>]) -> Vec<HashMap<&'t str, u32>> {
    let mut scopes = vec![HashMap::new()];
    let mut open = vec![0];
    let mut index = 0;
    for item in items {
        match item {
            Item::Open => {
                open.push(scopes.len());
                scopes.push(HashMap::new());
            }
            Item::Close => {
                open.pop();
            }
            Item::Label(name) => {
                if let Some(&scope) = open.last() {
                    scopes[scope].insert(*name, index);
                }
            }
            Item::Statement(_) => index += 1,
            _ => {}
        }
    }
    scopes
}

fn names_used<'t>(items: &[Item<'t>]) -> HashSet<&'t str> {
    fn visit<'t>(operand: &Operand<'t>, names: &mut HashSet<&'t str>) {
        match operand {
            Operand::Name(name) | Operand::Sum(name, _) => {
                names.insert(name);
            }
            Operand::Address { base, more, .. } => {
                names.extend(base);
                more.iter().for_each(|operand| visit(operand, names));
            }
            Operand::Vector(members) | Operand::List(members) => {
                members.iter().for_each(|operand| visit(operand, names));
            }
            _ => {}
        }
    }
    let mut names = HashSet::new();
    for item in items {
        if let Item::Statement(statement) = item {
            statement.operands.iter().for_each(|operand| visit(operand, &mut names));
        }
    }
    names
}

impl Instruction {
    /// Its class.
    pub const fn class(&self) -> Class {
        self.decoded.class
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;

    #[test]
    fn every_committed_kernel_decodes() {
        let mut failures = Vec::new();
        for stem in ptx::modules() {
            let text = ptx::module(stem).unwrap();
            for kernel in kernels(text).unwrap() {
                failures.extend(Kernel::new(stem, text, &kernel).err().map(|e| e.to_string()));
            }
        }
        failures.sort();
        failures.dedup();
        assert!(failures.is_empty(), "{} kinds:\n{}", failures.len(), failures.join("\n"));
    }

    #[test]
    fn an_unknown_instruction_is_named_with_its_line() {
        let text = ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %r<2>;\n\
                    mov.u32 %r1, 0;\nbarrier.cluster.arrive.aligned;\nret;\n}\n";
        let error = Kernel::new("module", text, "k").unwrap_err();
        let instruction = "barrier.cluster.arrive.aligned";
        assert!(
            matches!(&error, Error::UnknownInstruction { line: 8, text, .. } if text == instruction),
            "{error}"
        );
    }

    #[test]
    fn vectors_are_added_atomically_as_f32_to_global_memory_only() {
        let decodes = |instruction: &str| {
            let text = format!(
                ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n\
                 .reg .b64 %rd<2>;\n.reg .b32 %r<2>;\n.reg .f32 %f<4>;\nmov.f32 %f1, 0f00000000;\n{instruction};\nret;\n}}\n"
            );
            Kernel::new("module", &text, "k").is_ok()
        };
        assert!(decodes("red.global.add.v2.f32 [%rd1], {%f1, %f1}"));
        assert!(decodes("red.relaxed.gpu.global.add.v4.f32 [%rd1], {%f1, %f1, %f1, %f1}"));
        for refused in [
            "red.global.add.v4.f32 [%rd1], {%f1, %f1}",
            "red.global.add.v2.u32 [%rd1], {%r1, %r1}",
            "red.global.max.v2.f32 [%rd1], {%f1, %f1}",
            "red.shared.add.v2.f32 [%r1], {%f1, %f1}",
            "red.global.add.f32 [%rd1], {%f1, %f1}",
        ] {
            assert!(!decodes(refused), "{refused}");
        }
    }
}
