//! Laws of decoding several tokens a step, shown on the references.

#[path = "cases/decoding.rs"]
mod cases;
#[path = "decoding/heads.rs"]
mod heads;
mod laws;

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 40);
}
