//! Control flow (chapter 9.7.11) and what changes no state: hints (9.7.18).

use super::{Decoded, Decoding, Form, Op, Refusal};
use crate::simulator::{monitor::Class, types::Type};

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let op = match form.head {
        "bra" => {
            form.takes("uni");
            Op::Branch(form.label(0)?)
        }
        "brx" => {
            form.takes("idx");
            form.takes("uni");
            Op::BranchIndexed(form.source(0)?, form.label_list(1)?)
        }
        "ret" | "exit" => {
            form.takes("uni");
            Op::Exit
        }
        "trap" => Op::Trap,
        "nanosleep" => {
            form.kind()?;
            Op::Nothing
        }
        "setmaxnreg" => {
            let known = (form.takes("inc") || form.takes("dec"))
                && form.takes("sync")
                && form.takes("aligned")
                && form.kind()? == Type::U32;
            if !known {
                return Err(Refusal::Unknown);
            }
            Op::HoldRegisters(form.immediate(0)?.min(256) as u32)
        }
        // Launches run one after the other here: who waits is told to the monitor alone.
        "griddepcontrol" => match (form.takes("wait"), form.takes("launch_dependents")) {
            (true, false) => Op::WaitForLaunches,
            (false, true) => Op::Nothing,
            _ => return Err(Refusal::Unknown),
        },
        _ => return Err(Refusal::Unknown),
    };
    Ok(Decoded::new(op, Class::Control))
}
