//! From PTX text to a [`Module`]: directives, variables, and each kernel's statements, still in words.
//!
//! Nothing here knows what an instruction means; [`super::instructions`] does. Malformed text is a
//! [`SyntaxError`] with its line, never a panic.

mod lexer;
mod module;
mod statement;

pub use lexer::{SyntaxError, Token, tokens};
pub(in crate::simulator) use module::fundamental;
pub use module::{Declaration, Item, KernelText, Module, Variable, parse};
pub use statement::{Operand, Statement};
