//! What fails, as workflow commands: GitHub shows each as an annotation of the run.

use crate::Verdicts;

/// GitHub shows no more of a step.
const MOST: usize = 10;

pub(crate) fn annotations(verdicts: &Verdicts) -> String {
    let problem = verdicts.problem.iter().map(|problem| command("nothing can be judged", problem));
    let entries = verdicts.entries.iter().filter(|entry| entry.verdict.fails()).map(|entry| {
        let title = format!("{}: {}", entry.verdict.name(), entry.variant);
        command(&title, &format!("{}: {}", entry.case, entry.reason))
    });
    problem.chain(entries).take(MOST).collect()
}

/// `::error title=…::…`, escaped so that no text can end the command or begin another.
fn command(title: &str, message: &str) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    format!("::error title={}::{}\n", property(title), data(message))
}
