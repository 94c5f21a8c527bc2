//! Speculative decoding of a small neural target, trained on the built-in text: what each kind of draft saves, on the GPU
//! where there is one.
//!
//! ```sh
//! cargo run --release --example neural_target -p touchstone-bench
//! ```

use touchstone_bench::{
    Runner,
    corpus::Corpus,
    neural::{Effort, Trained},
};

fn main() -> anyhow::Result<()> {
    let runner = Runner::new(0, true)?;
    let trained = Trained::on(&Corpus::embedded())?;
    let found = match runner.gpu() {
        Ok(gpu) => trained.on_gpu(gpu, Effort::GPU)?,
        Err(absent) => {
            println!("no GPU ({absent}): the reference verifies, on one core");
            trained.by_reference(Effort::REFERENCE)?
        }
    };
    let device = found.device.as_deref().unwrap_or("the CPU");
    println!(
        "verified on {device}, {} sequences side by side; perplexity {:.2}",
        found.rows, found.perplexity
    );
    println!(
        "{:<10} {:>14} {:>12} {:>10} {:>14}  variant",
        "draft", "tokens a pass", "tokens/s", "law p", "us of a pass"
    );
    for one in &found.schemes {
        let (decoded, scheme) = (&one.decoded, format!("{:?}", one.decoded.scheme));
        println!(
            "{scheme:<10} {:>14.2} {:>12.0} {:>10.2} {:>14.1}  {}",
            decoded.tokens_per_step(),
            decoded.tokens_per_second(),
            decoded.law,
            one.alone.map_or(f64::NAN, |alone| alone.0 * 1e6),
            one.variant.as_deref().unwrap_or("reference"),
        );
    }
    Ok(())
}
